"""BCU: backdoor cleansing with unlabeled data.

Idea: a student starts as a copy of the suspect (the teacher) of which some weights are replaced by
freshly initialised ones: few in shallow layers, whose features are worth keeping, many in deep
ones, where the shortcut from trigger to target lives. It then learns the teacher's answers anew on
images that carry no trigger. What the images do not show, the student does not learn.

Reference: Pang et al., "Backdoor Cleansing with Unlabeled Data", CVPR 2023, arXiv 2211.12044.
`BCU.faithful()` has the settings of the authors' code: 100 epochs over 5,000 unlabelled images.

The images are the field `surrogate`: procedural scenes by default, a folder of pictures, or a data
set that is not the clients'. They must be free of the trigger: the teacher would teach it again.

Deviations from the authors' code, each with its reason:
  1. Which share of a layer is replaced follows from the size of its output in one forward pass of
     a blank image, not from names such as "layer4": the layers with the smallest maps are the
     deepest stage. On a ResNet-18 this gives the authors' stages.
  2. What counts as BatchNorm, and is kept, is told by a module's type, not by its name.
Deviations of `BCU.per_round()`, which is made for a repair after every aggregation:
  3. Fewer passes, and three to ten times as many weights replaced: what few passes over smaller
     batches bring back is more of the backdoor than of the rest, unless much was replaced.
  4. Of many surrogate images those are taken that are most familiar to the teacher's BatchNorm
     statistics, and they are drawn so that the teacher's classes come equally often.
  5. The student's BatchNorm statistics are the teacher's, moved once to fit the replaced weights
     by what the images change, and then kept: those of scenes are not those of real images.
What each is worth is in docs/methods/bcu.md.

Needs: unlabelled images, or none with scenes. Cost: a forward pass of teacher and student and a
backward pass of the student per step; `details["forward_images"]` counts images passed forward.
"""

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.batchnorm import correct_statistics
from fl_defense.model.counting import CountingModel
from fl_defense.model.hooks import observe_layers
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy, trainable
from fl_defense.progress import counted
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import class_balance
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require, require_at_least, require_declared, require_positive

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class BCU(Sanitizer):
    """Re-initialisation by depth, then distillation; the defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense.surrogates.scenes import Scenes
        >>> quick = BCU(num_images=16, epochs=1, batch_size=8, surrogate=Scenes())
        >>> repaired = apply_sanitizer(quick, spec.build(), spec)
        >>> repaired.state is None
        True
    """

    surrogate: Surrogate = field(default_factory=Scenes)
    """Where unlabelled images come from, none of them a client's."""
    num_images: int = 5000
    """Unlabelled images to distil on."""
    candidates_per_image: int = 4
    """Images drawn for each one taken; those most familiar to the teacher's BatchNorm are taken."""
    balance_classes: bool = True
    """Draw batches so that the teacher's classes come equally often."""
    stage_rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.7)
    """Share of re-initialised weights by stage, deepest last; each in [0, 1]. A network with fewer
    stages takes the last ones, further shallow stages the first."""
    classifier_rate: float = 0.5
    """Share of re-initialised weights of the linear layers behind the last convolution."""
    epochs: int = 20
    """Passes over the images."""
    batch_size: int = 64
    """Images per step."""
    student_lr: float = 0.01
    """Of SGD with momentum 0.9, falling to 0 along a cosine."""
    weight_decay: float = 5e-4
    """Of SGD."""
    max_temperature: float = 4.0
    """Temperature of the last epoch's softmax; it rises from 1 in equal steps."""
    crop_padding: int = 4
    """Pixels by which an image may be shifted, at random; black comes in."""
    flip: bool = False
    """Mirror each image or not, at random; the paper does for CIFAR-10."""
    student_batchnorm: Literal["frozen", "train"] = "frozen"
    """Fit the statistics once to the replaced weights and keep them, or update them as the paper
    does."""
    num_statistics_images: int = 512
    """Images on which they are fitted."""

    facts: ClassVar[Facts] = Facts(
        needs="nothing, or unlabelled images",
        changes="all weights",
        cost="400,000 passes of an image, backward ones among them",
        paper="Pang et al., CVPR 2023, arXiv 2211.12044",
        limits="images that carry the trigger teach it again",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, num_images=2, candidates_per_image=1, epochs=1, batch_size=2)
        require_at_least(self, crop_padding=0, max_temperature=1, weight_decay=0)
        require_at_least(self, num_statistics_images=2)
        require_positive(self, "student_lr")
        rates = (*self.stage_rates, self.classifier_rate)
        in_range = len(self.stage_rates) > 0 and all(0 <= rate <= 1 for rate in rates)
        require(in_range, "stage_rates and classifier_rate", "one or more in [0, 1]", rates)

    @classmethod
    def per_round(cls) -> Self:
        """Return the short run for a repair after every aggregation."""
        return cls()

    @classmethod
    def faithful(cls) -> Self:
        """Return the settings of the authors' code."""
        return cls(
            candidates_per_image=1,
            stage_rates=(0.01, 0.01, 0.03, 0.09, 0.27),
            classifier_rate=0.1,
            balance_classes=False,
            epochs=100,
            batch_size=256,
            student_batchnorm="train",
        )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {"per-round": cls.per_round(), "faithful": cls.faithful()}

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse surrogates that cannot be had, and networks that are frozen altogether.

        Raises:
            ValueError: if there is no image, or no parameter may be trained.
        """
        trainable(model)
        self.surrogate.draw(1, spec.input_shape)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Distil `suspect` into a partly re-initialised copy of itself.

        Nothing is carried on: every aggregate gets a student of its own.
        """
        del state, reference
        teacher = CountingModel(frozen_copy(suspect))
        images = self._images(teacher, spec)
        student = CountingModel(copy.deepcopy(suspect).eval())
        num_replaced = self._reinitialize(student.network, spec)
        if self.student_batchnorm == "frozen":
            inputs = spec.pixels.normalize(images[: self.num_statistics_images])
            correct_statistics(teacher, student, inputs)
        student.train(self.student_batchnorm == "train")
        loss = self._distill(teacher, student, images, spec)
        return Sanitized(
            model=student.network.eval(),
            details={
                "loss": loss,
                "num_reinitialized": float(num_replaced),
                "forward_images": teacher.forward_images + student.forward_images,
            },
        )

    def _images(self, teacher: nn.Module, spec: ModelSpec) -> Tensor:
        """Return the unlabelled images in [0, 1], on the teacher's device."""
        inputs = draw_familiar(
            self.surrogate, teacher, spec, self.num_images, self.candidates_per_image
        )
        return spec.pixels.denormalize(inputs)

    @torch.no_grad()
    def _reinitialize(self, student: nn.Module, spec: ModelSpec) -> int:
        """Replace single weights and biases by those of a fresh network; return how many."""
        fresh = spec.build().to(next(student.parameters()).device)
        num_replaced = 0
        for name, rate in self._rates(student, spec).items():
            old, new = student.get_submodule(name), fresh.get_submodule(name)
            for parameter, value in zip(
                old.parameters(recurse=False), new.parameters(recurse=False), strict=True
            ):
                if not parameter.requires_grad:
                    continue
                replaced = torch.rand_like(parameter) < rate
                parameter[replaced] = value[replaced]
                num_replaced += int(replaced.sum())
        return num_replaced

    def _rates(self, model: nn.Module, spec: ModelSpec) -> dict[str, float]:
        """Return the share to replace of every convolution and linear layer, by its name."""
        stages, classifier = stages_by_map_size(model, spec.input_shape)
        rates = dict.fromkeys(classifier, self.classifier_rate)
        for depth_from_end, names in enumerate(reversed(stages), start=1):
            rate = self.stage_rates[-min(depth_from_end, len(self.stage_rates))]
            rates |= dict.fromkeys(names, rate)
        return rates

    def _distill(
        self, teacher: nn.Module, student: nn.Module, images: Tensor, spec: ModelSpec
    ) -> float:
        """Train the student on the teacher's softened answers (paper, eq. 2); return the loss."""
        weights = torch.ones(len(images), device=images.device)
        if self.balance_classes:
            weights = class_balance(in_chunks(teacher, spec.pixels.normalize(images)))
        optimizer = torch.optim.SGD(
            student.parameters(), self.student_lr, momentum=0.9, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        loss = torch.zeros(())
        for epoch in counted("distilling", range(self.epochs)):
            temperature = 1 + (self.max_temperature - 1) * (epoch + 1) / self.epochs
            order = torch.multinomial(weights, len(images), replacement=self.balance_classes)
            for batch in order.split(self.batch_size):
                inputs = spec.pixels.normalize(self._augment(images[batch]))
                with torch.no_grad():
                    target = (teacher(inputs) / temperature).softmax(1)
                answer = (student(inputs) / temperature).log_softmax(1)
                loss = functional.kl_div(answer, target, reduction="batchmean")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()
        return loss.item()

    def _augment(self, images: Tensor) -> Tensor:
        """Shift each image by up to `crop_padding` pixels, and mirror every other if asked to."""
        num, channels, height, width = images.shape
        shifts = torch.randint(2 * self.crop_padding + 1, (2, num, 1), device=images.device)
        rows = (torch.arange(height, device=images.device) + shifts[0])[:, None, :, None]
        columns = torch.arange(width, device=images.device) + shifts[1]
        if self.flip:
            mirrored = torch.rand(num, 1, device=images.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = functional.pad(images, [self.crop_padding] * 4)
        index = torch.arange(num, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[index, channel, rows, columns[:, None, None, :]]


def stages_by_map_size(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[list[list[str]], list[str]]:
    """Return the names of convolutions, grouped by the size of their output, and of what follows.

    Args:
        model: in eval mode.
        input_shape: channels, height, width.

    Returns:
        The stages, largest maps first, and the linear layers called after the last convolution.
        Linear layers before it belong to the stage of the convolution before them.
    """
    calls = observe_layers(
        model, input_shape, lambda _, layer: isinstance(layer, (*CONVOLUTIONS, nn.Linear))
    )
    is_convolution = [isinstance(call.layer, CONVOLUTIONS) for call in calls]
    last = max((index for index, found in enumerate(is_convolution) if found), default=-1)
    sizes: dict[str, int] = {}  # cells of the maps that each layer belongs to
    size = 0
    for call, convolves in zip(calls[: last + 1], is_convolution, strict=False):
        size = call.output.shape[2:].numel() if convolves else size
        sizes[call.name] = size
    stages = [
        [name for name, size in sizes.items() if size == stage]
        for stage in sorted(set(sizes.values()), reverse=True)
    ]
    return stages, [call.name for call in calls[last + 1 :]]
