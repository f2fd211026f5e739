"""Measures models on the held-out images, clean and with the trigger of each backdoor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.progress import counted
from simulations.attack.backdoor import Backdoor
from simulations.data import ImageData
from simulations.measurement.confusion import Matrix, count
from simulations.metrics import Metric, Triggered, measure_clean, measure_triggered, measured

BATCH_SIZE = 512
"""Images per forward pass."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How one model measures: fractions by the names of metrics."""

    rates: dict[str, float]
    """Of a metric with a trigger the mean over the backdoors."""
    by_backdoor: tuple[dict[str, float], ...]
    """The metrics with a trigger for each backdoor."""


@dataclass(frozen=True, kw_only=True)
class _Stamped:
    """The test images with the trigger of one backdoor."""

    images: Tensor
    wanted: Tensor
    is_source: Tensor


class Evaluation:
    """The held-out images, ready to measure many models on.

    Args:
        data: only the test images are used.
        backdoors: their triggers are stamped once; without any, clean images alone are measured.
        num_classes: of the data set.
        device: where models are run.
        metrics: what is measured beside the standard ones.
    """

    def __init__(
        self,
        data: ImageData,
        backdoors: Sequence[Backdoor],
        num_classes: int,
        device: torch.device,
        metrics: Sequence[Metric] = (),
    ) -> None:
        self._metrics = metrics
        self._labels = data.test_labels
        self._device = device
        self._images = data.test_images
        self._num_classes = num_classes
        self.measure_triggers_of(backdoors)

    def measure_triggers_of(self, backdoors: Sequence[Backdoor]) -> None:
        """Stamp the triggers of these backdoors, which are measured from now on."""
        self._stamped = [self._stamp(backdoor) for backdoor in backdoors]

    def measure(self, deployed: DeployedModel) -> Measurement:
        """Measure one model, which maps images in [0, 1] to logits; it is moved to the device."""
        deployed = deployed.to(self._device)
        clean = predict(deployed, self._batches(self._images))
        rates = measure_clean(clean, self._labels, self._metrics)
        by_backdoor = tuple(self._measure(deployed, stamped) for stamped in self._stamped)
        for name in measured(self._metrics):
            found = [each[name] for each in by_backdoor if name in each]
            if found:
                rates[name] = fmean(found)
        return Measurement(rates=rates, by_backdoor=by_backdoor)

    def confusion(self, deployed: DeployedModel) -> dict[str, Matrix]:
        """Return the counts of answers to clean images, and to those with the first trigger."""
        deployed = deployed.to(self._device)
        shown = {"clean": self._images}
        if self._stamped:
            shown["triggered"] = self._stamped[0].images
        return {
            name: count(self._labels, predict(deployed, self._batches(images)), self._num_classes)
            for name, images in shown.items()
        }

    def measure_all(self, models: dict[str, DeployedModel]) -> dict[str, Measurement]:
        """Measure several models by name; those of the same modules are run once."""
        known: dict[tuple[int, int], Measurement] = {}
        for deployed in models.values():
            if _identity(deployed) not in known:
                known[_identity(deployed)] = self.measure(deployed)
        return {name: known[_identity(deployed)] for name, deployed in models.items()}

    def _measure(self, deployed: DeployedModel, stamped: _Stamped) -> dict[str, float]:
        triggered = Triggered(
            predicted=predict(deployed, self._batches(stamped.images)),
            labels=self._labels,
            wanted=stamped.wanted,
            is_source=stamped.is_source,
        )
        return measure_triggered(triggered, self._metrics)

    def _stamp(self, backdoor: Backdoor) -> _Stamped:
        images, wanted = backdoor.apply(self._images.float() / 255, self._labels, self._num_classes)
        return _Stamped(
            images=(images * 255).round().to(torch.uint8),
            wanted=wanted,
            is_source=backdoor.is_source(self._labels),
        )

    def _batches(self, images: Tensor) -> Iterator[Tensor]:
        """Yield one batch after the other: all test images as floats may not fit on the device."""
        for batch in counted("asking about test images", images.split(BATCH_SIZE)):
            yield batch.to(self._device).float() / 255


def _identity(deployed: DeployedModel) -> tuple[int, int]:
    return id(deployed.model), id(deployed.purify)
