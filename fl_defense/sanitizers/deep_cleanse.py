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
What each is worth is in docs/methods.md.

Needs: nothing with scenes; unlabelled images otherwise. Cost: once, the training of the completion
network; per image at inference, its forward pass, two of the model and a backward pass of the
model's last layers. Covers localised triggers alone: a blended or warped one is nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.metrics import predict
from fl_defense.model_cut import possible_cuts
from fl_defense.model_spec import ModelSpec, OnImages, Pixels
from fl_defense.ranges import (
    require,
    require_at_least,
    require_declared,
    require_positive,
    require_share,
)
from fl_defense.sanitizers._completion import CompletionNetwork, train_completion
from fl_defense.sanitizers.base import Sanitized, State, frozen_copy
from fl_defense.surrogates import Scenes, Surrogate, most_familiar

Saliency = Literal["fused", "grad-cam"]

MOST_LAYERS = 3
"""Map sizes that fused saliency looks at, the smallest ones."""


@dataclass(frozen=True, kw_only=True)
class DeepCleanse:
    """Cuts out what decides the answer and paints it over; the weights stay.

    Raises:
        ValueError: if a value is out of its range.
    """

    surrogate: Surrogate = field(default_factory=Scenes)
    """Where unlabelled images come from, none of them a client's."""
    num_images: int = 2000
    """Unlabelled images to train the completion network on."""
    saliency: Saliency = "fused"
    """Gradient times map of several layers, averaged, or Grad-CAM of one layer as in the paper."""
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

    changes_models: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, num_images=1, num_limit_images=1, min_map_side=1, batch_size=2)
        require_at_least(self, completion_width=1, completion_steps=1)
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
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        """Return the suspect's copy and the purifier to put before it.

        Raises:
            ValueError: if the model cannot be cut in two at a feature map.
        """
        model = frozen_copy(suspect)
        device = next(model.parameters()).device
        images = self.surrogate.draw(self.num_images, spec.input_shape).to(device)
        completion, loss = self._completion(images, spec, state)
        layers = layers_to_look_at(model, spec, self.min_map_side)
        layers = layers[-1:] if self.saliency == "grad-cam" else layers[-MOST_LAYERS:]
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
        before = predict(OnImages(model, spec.pixels), batches)
        agreement = 0.0
        for limit in self.hole_limits:
            purify.hole_limit.fill_(limit)
            after = predict(OnImages(model, spec.pixels, purify), batches)
            agreement = (before == after).double().mean().item()
            if agreement >= self.min_agreement:
                break
        return agreement


class Purifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] in, images without the patch that decided the answer out.

    Args:
        model: what will classify the images; frozen and in eval mode.
        layers: names of the submodules whose maps are looked at.
        saliency: see `DeepCleanse`.
        pixels: how the model's inputs are normalised.
        completion: fills holes.
        threshold: saliency in (0, 1] from which a pixel is cut out.
        hole_limit: images of which a larger share would be cut out are left as they are.
    """

    hole_limit: Tensor

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        saliency: Saliency,
        pixels: Pixels,
        completion: CompletionNetwork,
        threshold: float,
        hole_limit: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.completion = model, completion
        self.layers, self.saliency, self.pixels = tuple(layers), saliency, pixels
        self.threshold = threshold
        device = next(completion.parameters()).device
        self.register_buffer("hole_limit", torch.tensor(hole_limit, device=device))

    def forward(self, images: Tensor) -> Tensor:
        """Cut out and paint over."""
        holes = (self.salience(images) >= self.threshold).to(images.dtype)
        small = holes.mean((1, 2, 3), keepdim=True) <= self.hole_limit
        purified: Tensor = self.completion(images, holes * small)
        return purified

    def salience(self, images: Tensor) -> Tensor:
        """Return where the model looks: (B, 1, H, W), 1 at the most salient place of each image.

        All zeros for an image that has no such place.
        """
        total = torch.zeros_like(images[:, :1])
        for maps, gradient in maps_and_gradients(
            self.model, self.layers, self.pixels.normalize(images)
        ):
            weights = gradient
            if self.saliency == "grad-cam":
                weights = gradient.mean((2, 3), keepdim=True)
            layer = (weights * maps).sum(1, keepdim=True).relu()
            layer = functional.interpolate(layer, images.shape[2:], mode="bilinear")
            total = total + _stretched(layer - layer.amin((2, 3), keepdim=True))
        return _stretched(total)


def maps_and_gradients(
    model: nn.Module, layers: Sequence[str], inputs: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the map of each layer, and the gradient of the predicted class's logit in it.

    Args:
        model: frozen and in eval mode, so that the images of a batch do not mix.
        layers: submodules through which everything passes, in order.
        inputs: normalised, (B, C, H, W).
    """
    seen: list[Tensor] = []

    def look(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Nothing before the first layer needs a gradient: the graph begins there.
        seen.append(output if output.requires_grad else output.detach().requires_grad_())
        # A copy, for what follows may work in place.
        return seen[-1].clone()

    hooks = [model.get_submodule(name).register_forward_hook(look) for name in layers]
    try:
        with torch.enable_grad():
            predicted = model(inputs).amax(1)
            gradients = torch.autograd.grad(predicted.sum(), seen)
    finally:
        for hook in hooks:
            hook.remove()
    return [(maps.detach(), gradient) for maps, gradient in zip(seen, gradients, strict=True)]


def layers_to_look_at(model: nn.Module, spec: ModelSpec, min_side: int) -> list[str]:
    """Return the last submodule of each map size that can be cut after, largest maps first.

    Left out are maps of the image's size, which show edges, and those with fewer than `min_side`
    cells a side; unless nothing else is left.

    Raises:
        ValueError: if the model cannot be traced, or has no map on its only path.
    """
    sides: dict[str, int] = {}

    def note(name: str, output: Tensor) -> None:
        if output.ndim == 4:
            sides[name] = min(output.shape[2:])

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: note(name, output)
        )
        for name in possible_cuts(model)
    ]
    try:
        with torch.no_grad():
            model(torch.zeros(1, *spec.input_shape, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    if not sides:
        raise ValueError(f"DeepCleanse needs a feature map, got none in {type(model).__name__}")
    last_of_size = {side: name for name, side in sides.items()}
    largest = min(spec.input_shape[1:])
    fitting = {side: name for side, name in last_of_size.items() if min_side <= side < largest}
    chosen = fitting or last_of_size
    return [chosen[side] for side in sorted(chosen, reverse=True)]


def _stretched(salience: Tensor) -> Tensor:
    """Divide by the largest value of each image; zeros stay zeros."""
    stretched: Tensor = salience / salience.amax((2, 3), keepdim=True).clamp_min(1e-8)
    return stretched
