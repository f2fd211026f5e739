"""What a repair has to beat: the same images and steps without the idea."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.inspections import FreeEagle
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import BCU, DHBE, DeepSanitizer, Sanitized, Sanitizer
from fl_defense.sanitizers.deep_sanitizer.dummies import Dummies
from fl_defense.state import State
from fl_defense.surrogates.familiarity import most_familiar
from fl_defense.surrogates.picture_folder import fit
from fl_defense.surrogates.scenes import scenes


@dataclass(frozen=True, kw_only=True)
class FineTuning(Sanitizer):
    """Trains the suspect further on procedural scenes, labelled by the suspect itself."""

    steps: int = 300
    """Batches of 96."""
    student_lr: float = 0.01
    """Of SGD with momentum 0.9."""

    changes_models: ClassVar[bool] = True

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Return the fine-tuned copy."""
        del state
        device = next(suspect.parameters()).device
        inputs = spec.pixels.normalize(scenes(8000, spec.input_shape).to(device))
        inputs = most_familiar(suspect, inputs, 2000)
        with torch.no_grad():
            labels = torch.cat([suspect(batch) for batch in inputs.split(500)]).argmax(1)
        weights = 1.0 / labels.bincount()[labels].float()
        student = copy.deepcopy(suspect).eval()
        optimizer = torch.optim.SGD(student.parameters(), self.student_lr, momentum=0.9)
        for _ in range(self.steps):
            batch = torch.multinomial(weights, 96, replacement=True)
            loss = functional.cross_entropy(student(inputs[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return Sanitized(model=student, details={"forward_images": 3 * 96 * self.steps})


@dataclass(frozen=True, kw_only=True)
class FreeEagleFineTuning(Sanitizer):
    """Trains the head on FreeEagle's dummies and their classes, and does nothing else."""

    dummies_per_class: int = 16
    """Dummies of each class."""
    steps: int = 100
    """Batches of all dummies."""
    student_lr: float = 0.01
    """Of SGD with momentum 0.9."""

    changes_models: ClassVar[bool] = True

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Return the copy with the fine-tuned head."""
        del state
        device = next(suspect.parameters()).device
        student = copy.deepcopy(suspect)
        freeeagle = FreeEagle(dummies_per_class=self.dummies_per_class, steps=300)
        # An inspection hands its dummies out on the CPU.
        dummies = freeeagle.inspect(suspect, spec).dummies.flatten(0, 1).to(device)
        labels = torch.arange(spec.num_classes, device=device)
        labels = labels.repeat_interleave(self.dummies_per_class)
        _, head = spec.split(student)
        head.eval()
        optimizer = torch.optim.SGD(head.parameters(), self.student_lr, momentum=0.9)
        for _ in range(self.steps):
            loss = functional.cross_entropy(head(dummies), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return Sanitized(model=student.eval())


@dataclass(frozen=True, kw_only=True)
class OracleFeatures(DeepSanitizer):
    """DeepSanitizer on real training images: what perfect dummies would be worth."""

    images: Tensor | None = field(default=None, repr=False, compare=False)
    """Real images, uint8 (N, C, H, W): no defense has them."""

    def make_inputs(self, spec: ModelSpec, suspect: nn.Module) -> Tensor:
        """Return real images."""
        assert self.images is not None
        device = next(suspect.parameters()).device
        chosen = torch.randperm(len(self.images))[: self.num_dummies]
        return spec.pixels.normalize(self.images[chosen].float().to(device) / 255)

    def make_dummies(self, teacher: nn.Module, features: Tensor, answers: Tensor) -> Dummies:
        """Return their features as they are."""
        del teacher
        return Dummies(features=features, classes=answers.argmax(1))


@dataclass(frozen=True, kw_only=True)
class NoiseFeatures(DeepSanitizer):
    """DeepSanitizer on half-normal noise of the features' mean square per channel."""

    def make_dummies(self, teacher: nn.Module, features: Tensor, answers: Tensor) -> Dummies:
        """Return noise."""
        del answers
        others = [0, *range(2, features.ndim)]
        noise = torch.randn_like(features).abs() * features.square().mean(others, True).sqrt()
        return Dummies(features=noise, classes=in_chunks(teacher, noise).argmax(1))


@dataclass(frozen=True, kw_only=True)
class FreeEagleDummies(DeepSanitizer):
    """DeepSanitizer on dummies that were optimised until they converged, as FreeEagle's are."""

    converging_steps: ClassVar[int] = 300

    def make_dummies(self, teacher: nn.Module, features: Tensor, answers: Tensor) -> Dummies:
        """Return converged dummies, evenly over the classes, each from its own start."""
        num_classes = answers.shape[1]
        classes = torch.arange(len(features), device=features.device) % num_classes
        dummies = []
        for labels in classes.split(256):
            moved = torch.rand(len(labels), *features.shape[1:]).to(features).requires_grad_(True)
            optimizer = torch.optim.Adam([moved], 1e-2, weight_decay=5e-3)
            for _ in range(self.converging_steps):
                loss = functional.cross_entropy(teacher(moved), labels, reduction="sum")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                moved.data.clamp_(min=0)
            dummies.append(moved.detach())
        return Dummies(features=torch.cat(dummies), classes=classes)


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """Unlabelled images of the victim's own data set that it was not trained on.

    Not data-free: what BCU's paper assumes, beside which its data-free forms are to be seen.
    """

    images: Tensor | None = field(default=None, repr=False, compare=False)
    """Filled in for each victim."""

    needs: ClassVar[str] = "unlabelled images of the clients' kind"

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` images drawn at random."""
        assert self.images is not None
        assert self.images.shape[1:] == shape
        return self.images[torch.randint(len(self.images), (num,))].float() / 255


@dataclass(frozen=True, kw_only=True)
class OtherData:
    """Images of another data set, brought to the victim's size: out of distribution."""

    images: Tensor | None = field(default=None, repr=False, compare=False)
    """Filled in for each victim."""

    needs: ClassVar[str] = "unlabelled images of another kind"

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` images drawn at random."""
        assert self.images is not None
        return fit(self.images[torch.randint(len(self.images), (num,))].float() / 255, shape)


CONTROLS: dict[str, Sanitizer] = {
    "fine-tuning": FineTuning(),
    "dhbe without patches": DHBE(consistency_weight=0.0),
    "fine-tuning on FreeEagle's dummies": FreeEagleFineTuning(),
    "deep-sanitizer without patches": DeepSanitizer(consistency_weight=0.0),
    "deep-sanitizer, scenes' features": DeepSanitizer(balancing_steps=0),
    "deep-sanitizer, noise features": NoiseFeatures(),
    "deep-sanitizer, FreeEagle's dummies": FreeEagleDummies(),
    "deep-sanitizer, oracle features": OracleFeatures(),
    # Images of the right kind need no choice among them.
    "bcu on own data": BCU(surrogate=OwnData(), candidates_per_image=1, balance_classes=False),
    "bcu on other data": BCU(surrogate=OtherData()),
}
"""Controls by the name that the tables use."""
