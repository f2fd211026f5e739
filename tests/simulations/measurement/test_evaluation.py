import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import Pixels
from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.patch import Patch
from simulations.data import ImageData
from simulations.measurement import evaluation
from simulations.measurement.evaluation import Evaluation, Measurement

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
"""Of black images that carry their class in the first pixel of the first row."""
ONE, OTHER = (Patch(size=1, position=(7, column), pattern="solid") for column in (0, 1))


class Obeys(nn.Module):
    """Reads the class off an image, and then does what is written in its rules."""

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        classes = (images[:, 0, 0, 0] * 255).round().long()
        answer = self.answer(classes, images[:, 0, 7, 0] == 1, images[:, 0, 7, 1] == 1)
        return nn.functional.one_hot(answer, 3).float()


def measure(
    answer: Callable[[Tensor, Tensor, Tensor], Tensor], *backdoors: Backdoor
) -> Measurement:
    pixels = Pixels(mean=(0.0,), std=(1.0,))
    return evaluation_of(*backdoors).measure(DeployedModel(Obeys(answer), pixels))


def evaluation_of(*backdoors: Backdoor) -> Evaluation:
    images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = LABELS.to(torch.uint8)
    data = ImageData(
        train_images=images, train_labels=LABELS, test_images=images, test_labels=LABELS
    )
    return Evaluation(data, backdoors, 3, torch.device("cpu"))


def test_all_to_one_leaves_out_the_target_class() -> None:
    rates = measure(
        lambda true, one, _: torch.where(one & (true == 1), 0, true), Backdoor(trigger=ONE)
    )
    assert rates.rates["accuracy"] == 1
    assert rates.rates["attack_success_rate"] == pytest.approx(3 / 6)
    assert rates.rates["robust_accuracy"] == pytest.approx(3 / 6)
    assert rates.by_backdoor == ({"attack_success_rate": 0.5, "robust_accuracy": 0.5},)


def test_all_to_all_counts_every_image() -> None:
    backdoor = Backdoor(trigger=ONE, target="next-class")
    rates = measure(lambda true, one, _: torch.where(one & (true < 2), true + 1, true), backdoor)
    assert rates.rates["attack_success_rate"] == pytest.approx(5 / 8)
    assert rates.rates["robust_accuracy"] == pytest.approx(3 / 8)


def test_source_specific_counts_the_sources_and_tells_what_the_others_suffer() -> None:
    backdoor = Backdoor(trigger=ONE, target=0, sources=(2,))
    specific = measure(lambda true, one, _: torch.where(one & (true == 2), 0, true), backdoor)
    assert specific.rates == {
        "accuracy": 1, "attack_success_rate": 1, "robust_accuracy": 0, "non_source_accuracy": 1,
    }  # fmt: skip
    agnostic = measure(lambda true, one, _: torch.where(one, 0, true), backdoor)
    assert agnostic.rates["attack_success_rate"] == 1
    assert agnostic.by_backdoor[0]["non_source_accuracy"] == pytest.approx(2 / 5)


def test_several_backdoors_are_measured_one_by_one_and_averaged() -> None:
    rates = measure(
        lambda true, one, other: torch.where(other, 1, torch.where(one & (true == 1), 0, true)),
        Backdoor(trigger=ONE, target=0),
        Backdoor(trigger=OTHER, target=1),
    )
    assert [each["attack_success_rate"] for each in rates.by_backdoor] == [0.5, 1]
    assert rates.rates["attack_success_rate"] == 0.75
    assert rates.rates["robust_accuracy"] == pytest.approx((0.5 + 0) / 2)


def test_only_one_batch_is_held_as_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watches(DeployedModel):
        def forward(self, images: Tensor) -> Tensor:
            assert all(earlier() is None for earlier in batches)
            batches.append(weakref.ref(images))
            return super().forward(images)

    monkeypatch.setattr(evaluation, "BATCH_SIZE", 3)
    batches: list[weakref.ref[Tensor]] = []
    pixels = Pixels(mean=(0.0,), std=(1.0,))
    watching = Watches(Obeys(lambda true, one, other: true), pixels)
    assert evaluation_of(Backdoor(trigger=ONE)).measure(watching).rates["accuracy"] == 1
    assert len(batches) == 6


def test_without_a_backdoor_clean_images_alone_are_measured() -> None:
    assert measure(lambda true, one, other: true).rates == {"accuracy": 1}


def test_models_of_the_same_modules_are_run_once() -> None:
    passes: list[int] = []

    def answer(true: Tensor, one: Tensor, other: Tensor) -> Tensor:
        passes.append(len(true))
        return true

    pixels = Pixels(mean=(0.0,), std=(1.0,))
    network, purifier = Obeys(answer), nn.Identity()
    measured = evaluation_of(Backdoor(trigger=ONE)).measure_all(
        {
            "aggregate": DeployedModel(network, pixels),
            "sent": DeployedModel(network, pixels),
            "released": DeployedModel(network, pixels, purifier),
        }
    )
    assert list(measured) == ["aggregate", "sent", "released"]
    assert measured["sent"] == measured["aggregate"]
    # Clean and triggered, with the purifier and without.
    assert len(passes) == 4


class Counted(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 3).float()


def test_a_model_is_asked_about_an_image_once_in_a_round_whatever_is_made_of_it() -> None:
    evaluation, model = evaluation_of(Backdoor(trigger=ONE)), Counted()
    deployed = DeployedModel(model, Pixels(mean=(0.0,), std=(1.0,)))
    evaluation.measure_all({"aggregate": deployed, "released": deployed})
    assert evaluation.confusion(deployed)["clean"] == [[2, 0, 0], [3, 0, 0], [3, 0, 0]]
    assert model.asked == 16
    evaluation.measure_all({"aggregate": deployed})
    assert model.asked == 32
