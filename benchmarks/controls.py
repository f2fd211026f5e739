"""What a repair has to beat: the same images and steps without the idea."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from fl_defense.model_spec import ModelSpec
from fl_defense.sanitizers import DHBE, Sanitized, Sanitizer
from fl_defense.sanitizers.base import State
from fl_defense.surrogates import most_familiar, scenes


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Trains the suspect further on procedural scenes, labelled by the suspect itself."""

    steps: int = 300
    """Batches of 96."""
    learning_rate: float = 0.01
    """Of SGD with momentum 0.9."""

    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
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
        optimizer = torch.optim.SGD(student.parameters(), self.learning_rate, momentum=0.9)
        for _ in range(self.steps):
            batch = torch.multinomial(weights, 96, replacement=True)
            loss = functional.cross_entropy(student(inputs[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return Sanitized(model=student, details={"forward_images": 3 * 96 * self.steps})


CONTROLS: dict[str, Sanitizer] = {
    "fine-tuning": FineTuning(),
    "dhbe without patches": DHBE(consistency_weight=0.0),
}
"""Controls by the name that the tables use."""
