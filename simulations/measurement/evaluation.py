"""Measures models on the held-out images, clean and with the trigger of each backdoor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from weakref import ref

import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel, in_eval_mode, predict
from fl_defense.model.precision import in_fastest_layout
from fl_defense.progress import counted
from simulations.attack.backdoor import Backdoor
from simulations.data import ImageData
from simulations.measurement.confusion import Matrix, count
from simulations.metrics import Metric, Triggered, measure_clean, measure_triggered, measured

BATCH_SIZE = 128
"""Images per forward pass: more would not fit into the caches of a CPU."""
CLEAN = -1
"""In the place of a backdoor's index: images as they are."""


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
        self.forget()

    def measure(self, deployed: DeployedModel) -> Measurement:
        """Measure one model, which maps images in [0, 1] to logits; it is moved to the device."""
        return self.measure_all({"it": deployed})["it"]

    def _measured(self, deployed: DeployedModel) -> Measurement:
        clean = self._answers(deployed, CLEAN, self._images)
        rates = measure_clean(clean, self._labels, self._metrics)
        by_backdoor = tuple(
            self._measure(deployed, index, stamped) for index, stamped in enumerate(self._stamped)
        )
        for name in measured(self._metrics):
            found = [each[name] for each in by_backdoor if name in each]
            if found:
                rates[name] = fmean(found)
        return Measurement(rates=rates, by_backdoor=by_backdoor)

    def confusion(self, deployed: DeployedModel) -> dict[str, Matrix]:
        """Return the counts of answers to clean images, and to those with the first trigger."""
        answers = {"clean": self._answers(deployed, CLEAN, self._images)}
        if self._stamped:
            answers["triggered"] = self._answers(deployed, 0, self._stamped[0].images)
        return {
            name: count(self._labels, predicted, self._num_classes)
            for name, predicted in answers.items()
        }

    def measure_all(self, models: dict[str, DeployedModel]) -> dict[str, Measurement]:
        """Measure several models by name; those of the same modules are run once.

        What they answer is known until others are measured: `confusion` asks them nothing anew.
        """
        self.forget()
        known: dict[tuple[int, int], Measurement] = {}
        for deployed in models.values():
            if _identity(deployed) not in known:
                known[_identity(deployed)] = self._measured(deployed)
        return {name: known[_identity(deployed)] for name, deployed in models.items()}

    def forget(self) -> None:
        """Forget answers: models may have changed."""
        self._known: list[tuple[ref[nn.Module], object, int, Tensor]] = []

    def _answers(self, deployed: DeployedModel, which: int, images: Tensor) -> Tensor:
        """Return a model's classes of images (N,); those of this round's models are known.

        Args:
            deployed: the model.
            which: `CLEAN`, or the index of the backdoor whose trigger the images have.
            images: uint8 (N, C, H, W).
        """
        purifier = None if deployed.purify is None else id(deployed.purify)
        for model, known_purifier, images_of, predicted in self._known:
            if model() is deployed.model and (known_purifier, images_of) == (purifier, which):
                return predicted
        moved = deployed.to(self._device)
        with (
            in_eval_mode(moved),
            in_fastest_layout(moved.model, tuple(images.shape[1:])) as layout,
        ):
            predicted = predict(moved, self._batches(images, layout))
        self._known.append((ref(deployed.model), purifier, which, predicted))
        return predicted

    def _measure(self, deployed: DeployedModel, index: int, stamped: _Stamped) -> dict[str, float]:
        triggered = Triggered(
            predicted=self._answers(deployed, index, stamped.images),
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

    def _batches(self, images: Tensor, layout: torch.memory_format) -> Iterator[Tensor]:
        """Yield one batch after the other: all test images as floats may not fit on the device."""
        for batch in counted("asking about test images", images.split(BATCH_SIZE)):
            yield (batch.to(self._device).float() / 255).contiguous(memory_format=layout)


def _identity(deployed: DeployedModel) -> tuple[int, int]:
    return id(deployed.model), id(deployed.purify)
