"""Measures models on the held-out images, clean and with the trigger of each backdoor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from fl_defense.metrics import accuracy, attack_success_rate, robust_accuracy
from fl_defense.model.deployed import DeployedModel, predict
from simulations.attack.backdoor import Backdoor
from simulations.data import ImageData

BATCH_SIZE = 512
"""Images per forward pass."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How one model measures; success and robust accuracy are means over the backdoors."""

    accuracy: float
    attack_success_rate: float
    robust_accuracy: float
    by_backdoor: tuple[dict[str, float], ...]
    """The last two for each backdoor; with sources also `non_source_accuracy`, the share of
    triggered images of all other classes that keep their class."""

    @property
    def overall(self) -> dict[str, float]:
        """The three rates by name."""
        return {
            "accuracy": self.accuracy,
            "attack_success_rate": self.attack_success_rate,
            "robust_accuracy": self.robust_accuracy,
        }


class Evaluation:
    """The held-out images, ready to measure many models on.

    Args:
        data: only the test images are used.
        backdoors: their triggers are stamped once.
        num_classes: of the data set.
        device: where models are run.
    """

    def __init__(
        self,
        data: ImageData,
        backdoors: Sequence[Backdoor],
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._images, self._labels = data.test_images, data.test_labels
        self._device = device
        self._planted = [
            (backdoor, *self._trigger(backdoor, num_classes)) for backdoor in backdoors
        ]

    def measure(self, deployed: DeployedModel) -> Rates:
        """Measure one model, which maps images in [0, 1] to logits; it is moved to the device."""
        deployed = deployed.to(self._device)
        clean = predict(deployed, self._batches(self._images))
        by_backdoor = tuple(
            self._measure_backdoor(backdoor, predict(deployed, self._batches(images)), wanted)
            for backdoor, images, wanted in self._planted
        )
        return Rates(
            accuracy=accuracy(clean, self._labels),
            attack_success_rate=fmean(rates["attack_success_rate"] for rates in by_backdoor),
            robust_accuracy=fmean(rates["robust_accuracy"] for rates in by_backdoor),
            by_backdoor=by_backdoor,
        )

    def _measure_backdoor(
        self, backdoor: Backdoor, predicted: Tensor, wanted: Tensor
    ) -> dict[str, float]:
        rates = {
            "attack_success_rate": attack_success_rate(predicted, self._labels, wanted),
            "robust_accuracy": robust_accuracy(predicted, self._labels, wanted),
        }
        others = ~backdoor.is_source(self._labels)
        if others.any():
            rates["non_source_accuracy"] = accuracy(predicted[others], self._labels[others])
        return rates

    def _trigger(self, backdoor: Backdoor, num_classes: int) -> tuple[Tensor, Tensor]:
        stamped, wanted = backdoor.apply(self._images.float() / 255, self._labels, num_classes)
        return (stamped * 255).round().to(torch.uint8), wanted

    def _batches(self, images: Tensor) -> Iterator[Tensor]:
        """Yield one batch after the other: all test images as floats may not fit on the device."""
        return (batch.to(self._device).float() / 255 for batch in images.split(BATCH_SIZE))
