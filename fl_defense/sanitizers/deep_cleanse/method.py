"""DeepCleanse: input sanitization, later published as Februus.

Idea: a patch that decides the answer must be where the network looks. Grad-CAM shows that place;
it is cut out of every image, clean or not, and painted over by an image completion network. The
weights stay as they are: what is repaired is the system of purifier and model.

Reference: Doan et al., "DeepCleanse: A Black-box Input Sanitization Framework Against Backdoor
Attacks on Deep Neural Networks", arXiv 1908.03369; "Februus", ACSAC 2020.

Deviations from the authors' code, each with its reason:
  1. Saliency is taken on normalised inputs and for whole batches. It is written here: the known
     Grad-CAM libraries pass through NumPy or bring OpenCV and matplotlib, for thirty lines.
  2. The completion network is trained on images of the field `surrogate`, by default procedural
     scenes, and without the adversarial phase; once, then carried from round to round.
Deviations of `DeepCleanse.per_round()`:
  3. Instead of one Grad-CAM, whose cells are coarse on small images, the saliencies of up to three
     layers of different map size are averaged, each the product of gradient and map in every cell
     (HiResCAM, Draelos and Carin, 2020). Layers are those with one path through them.
  4. An image is left as it is if the hole would be large: a patch draws all attention to one
     small place, the objects of clean images do not. How large is too large is chosen without
     labels: the largest limit at which the model still says of purified surrogate images what it
     said before. The paper cuts a hole into every image.
What each is worth is in docs/methods/deep-cleanse.md.

Needs: nothing with scenes; unlabelled images otherwise. Cost: once, the training of the completion
network; per image at inference, its forward pass, two of the model and a backward pass of the
model's last layers. Covers localised triggers alone: a blended or warped one is nowhere.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.sanitizers.deep_cleanse.completion import (
    CompletionNetwork,
    TrainingHoles,
    train_completion,
)
from fl_defense.sanitizers.deep_cleanse.purifier import Purifier, Saliency, layers_to_look_at
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import most_familiar
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import (
    require,
    require_at_least,
    require_declared,
    require_positive,
    require_share,
)


@dataclass(frozen=True, kw_only=True)
class DeepCleanse(Sanitizer):
    """Cuts out what decides the answer and paints it over; the weights stay.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> quick = DeepCleanse(
        ...     num_images=16,
        ...     num_limit_images=8,
        ...     completion_width=2,
        ...     completion_steps=2,
        ...     batch_size=8,
        ... )
        >>> repaired = apply_sanitizer(quick, spec.build(), spec)
        >>> repaired.purify(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    surrogate: Surrogate = field(default_factory=Scenes)
    """Where unlabelled images come from, none of them a client's."""
    num_images: int = 2000
    """Unlabelled images to train the completion network on."""
    saliency: Saliency = "fused"
    """Gradient times map of several layers, averaged, or Grad-CAM of one layer as in the paper."""
    num_layers: int = 3
    """Map sizes that fused saliency looks at, the smallest ones."""
    min_map_side: int = 4
    """Least height and width, in cells, of the maps that are looked at."""
    threshold: float = 0.4
    """Saliency from which a pixel is cut out, in (0, 1]; 1 is the most salient place."""
    hole_limits: tuple[float, ...] = (0.5, 0.4, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04)
    """Largest share of an image to cut out, in (0, 1], descending: images with a larger hole are
    left as they are. The first limit that passes is taken, or the last."""
    min_agreement: float = 0.9
    """Share of surrogate images that must keep their class when purified, in [0, 1]."""
    num_limit_images: int = 512
    """Surrogate images, the most familiar to the model's BatchNorm, on which that is measured."""
    completion_width: int = 12
    """Filters of the completion network's first layer; the paper has 64."""
    completion_steps: int = 250
    """Batches that it is trained on, once."""
    batch_size: int = 64
    """Images per step."""
    completion_lr: float = 3e-3
    """Adam's peak learning rate for the completion network."""
    training_holes: TrainingHoles = TrainingHoles()
    """The holes that it is trained to fill."""

    changes_models: ClassVar[bool] = False
    purifies: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        needs="nothing, or unlabelled images",
        changes="nothing: purifies images at inference",
        cost="several passes per image at inference",
        paper="Doan et al., arXiv 1908.03369 (Februus, ACSAC 2020)",
        limits="patches alone: a blended or warped trigger is nowhere",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, num_images=1, num_limit_images=1, min_map_side=1, batch_size=2)
        require_at_least(self, completion_width=1, completion_steps=1, num_layers=1)
        require_positive(self, "completion_lr")
        require_share(self, "min_agreement")
        require(0 < self.threshold <= 1, "threshold", "in (0, 1]", self.threshold)
        limits = self.hole_limits
        descending = tuple(sorted(set(limits), reverse=True)) == limits != ()
        in_range = all(0 < limit <= 1 for limit in limits)
        require(descending and in_range, "hole_limits", "descending in (0, 1]", limits)

    @classmethod
    def per_round(cls) -> Self:
        """Return the settings for a federation: the defaults."""
        return cls()

    @classmethod
    def faithful(cls) -> Self:
        """Return the paper's form: Grad-CAM, threshold 0.7, a hole in every image, full width."""
        return cls(
            num_images=50_000,
            saliency="grad-cam",
            min_map_side=7,
            threshold=0.7,
            hole_limits=(1.0,),
            completion_width=64,
            completion_steps=15_000,
            batch_size=256,
            completion_lr=2e-4,
        )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {"per-round": cls.per_round(), "faithful": cls.faithful()}

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse networks without a feature map to look at, and surrogates that cannot be had.

        Raises:
            ValueError: if the model cannot be cut in two at a feature map, or there is no image.
        """
        layers_to_look_at(model, spec, self.min_map_side)
        self.surrogate.draw(1, spec.input_shape)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Return the suspect's copy and the purifier to put before it.

        Raises:
            ValueError: if the model cannot be cut in two at a feature map.
        """
        del reference
        model = frozen_copy(suspect)
        device = next(model.parameters()).device
        images = self.surrogate.draw(self.num_images, spec.input_shape).to(device)
        completion, loss = self._completion(images, spec, state)
        layers = layers_to_look_at(model, spec, self.min_map_side)
        layers = layers[-1:] if self.saliency == "grad-cam" else layers[-self.num_layers :]
        purify = Purifier(model, layers, self.saliency, spec.pixels, completion, self.threshold)
        agreement = self._choose_limit(purify.eval(), images, spec)
        return Sanitized(
            model=frozen_copy(suspect).requires_grad_(True),
            purify=purify,
            state={"completion": {k: v.clone() for k, v in completion.state_dict().items()}},
            details={
                "completion_loss": loss,
                "hole_limit": purify.hole_limit.item(),
                "limit_agreement": agreement,
            },
        )

    def _completion(
        self, images: Tensor, spec: ModelSpec, state: State | None
    ) -> tuple[CompletionNetwork, float]:
        """Return the completion network, trained unless it comes with `state`, and its loss."""
        fill = torch.tensor(spec.pixels.mean)
        network = CompletionNetwork(spec.input_shape[0], self.completion_width, fill)
        network = network.to(images.device)
        if state is not None:
            network.load_state_dict(state["completion"])
            return network.eval().requires_grad_(False), 0.0
        loss = train_completion(
            network,
            images,
            self.training_holes,
            steps=self.completion_steps,
            batch_size=self.batch_size,
            lr=self.completion_lr,
        )
        return network.requires_grad_(False), loss

    def _choose_limit(self, purify: "Purifier", images: Tensor, spec: ModelSpec) -> float:
        """Set the purifier's limit; return the agreement that it was chosen for."""
        model = purify.model
        inputs = most_familiar(model, spec.pixels.normalize(images), self.num_limit_images)
        batches = spec.pixels.denormalize(inputs).split(256)
        before = predict(DeployedModel(model, spec.pixels), batches)
        agreement = 0.0
        for limit in self.hole_limits:
            purify.hole_limit.fill_(limit)
            after = predict(DeployedModel(model, spec.pixels, purify), batches)
            agreement = (before == after).double().mean().item()
            if agreement >= self.min_agreement:
                break
        return agreement
