"""The do-no-harm gate: a repair that changes what the model says is refused, without any label."""

from statistics import fmean

import torch
from torch import nn

from fl_defense.model.batchnorm import keeps_statistics
from fl_defense.model.deployed import NO_CLASS, DeployedModel, answers_finite, predict
from fl_defense.model.spec import ModelSpec
from fl_defense.surrogates.scenes import scenes
from fl_defense.validation import require

NUM_IMAGES = 1024
"""Surrogate images on which the two models are compared."""
NUM_TRIED = 64
"""Surrogate images to which a model must answer with numbers."""

LEAST = 0.5
"""Least agreement by default."""
LEAST_WITHOUT_STATISTICS = 0.8
"""The same of a network that keeps no BatchNorm statistics: nothing tells which scenes are familiar
to it, and repairs that agreed on 0.6 to 0.73 of them cost a clean one 0.04 to 0.10 of its accuracy
(docs/results.md, networks)."""


def _least_agreement(model: nn.Module) -> float:
    """Return the agreement from which a repair of such a network is accepted by default."""
    return LEAST if keeps_statistics(model) else LEAST_WITHOUT_STATISTICS


class DoNoHarmGate:
    """Compares a model before and after its repair on procedural scenes.

    Args:
        spec: structure of the model.
        model: a network of that structure, of whatever weights.
        min_agreement: least agreement, in [0, 1], at which a repair is accepted. None: 0.5, or 0.8
            for a network that keeps no BatchNorm statistics.
        seed: of the scenes.
        device: where the models are.

    Raises:
        ValueError: if `min_agreement` is outside [0, 1].

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> DoNoHarmGate(spec, spec.build(), seed=0, device=torch.device("cpu")).min_agreement
        0.5
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: nn.Module,
        min_agreement: float | None = None,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        least = _least_agreement(model) if min_agreement is None else min_agreement
        require(0 <= least <= 1, "min_agreement", "in [0, 1]", least)
        self.min_agreement = least
        generator = torch.Generator().manual_seed(seed)
        self._images = scenes(NUM_IMAGES, spec.input_shape, generator=generator).to(device)

    def agreement(self, before: DeployedModel, after: DeployedModel) -> float:
        """Return the mean over the classes that `before` sees of the share that `after` sees alike.

        Scenes crowd into a few classes; the mean over classes keeps the rare ones in sight. An
        image to which a model answers with NaN or Inf is in no class.
        """
        batches = self._images.split(256)
        old, new = predict(before, batches), predict(after, batches)
        shares = [
            (new[old == label] == label).double().mean().item()
            for label in old[old != NO_CLASS].unique()
        ]
        return float(fmean(shares)) if shares else 0.0

    def fault(self, deployed: DeployedModel) -> str | None:
        """Return what is wrong with a model by itself, or None: it must answer with numbers."""
        if answers_finite(deployed, [self._images[:NUM_TRIED]]).all():
            return None
        return "answers with NaN or Inf"

    def refusal(self, agreement: float) -> str | None:
        """Return why a repair with this agreement is refused, or None."""
        if agreement >= self.min_agreement:
            return None
        return f"agreement {agreement:.3f} is below {self.min_agreement:g}"
