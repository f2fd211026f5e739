import pytest
import torch
from torch import nn

from fl_defense.metrics import accuracy, attack_success_rate, defense_effectiveness, robust_accuracy
from fl_defense.model.deployed import in_eval_mode, predict

LABELS = torch.tensor([0, 1, 1, 2, 2])
TRIGGERED = torch.tensor([0, 0, 1, 0, 1])


def test_accuracy_is_the_share_of_hits() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 2, 0]), LABELS) == pytest.approx(3 / 5)


def test_attack_success_leaves_out_images_of_the_target_class() -> None:
    # With them it would be 3/5.
    assert attack_success_rate(TRIGGERED, LABELS, 0) == pytest.approx(2 / 4)


def test_robust_accuracy_counts_true_classes_among_the_same_images() -> None:
    assert robust_accuracy(TRIGGERED, LABELS, 0) == pytest.approx(1 / 4)


def test_targets_may_differ_per_image() -> None:
    targets = torch.tensor([1, 2, 2, 0, 0])
    predicted = torch.tensor([1, 2, 1, 2, 0])
    assert attack_success_rate(predicted, LABELS, targets) == pytest.approx(3 / 5)


def test_success_is_undefined_when_all_are_of_the_target_class() -> None:
    with pytest.raises(ValueError, match="attack success rate is undefined"):
        attack_success_rate(torch.tensor([0, 0]), torch.tensor([0, 0]), 0)


@pytest.mark.parametrize(
    ("after", "expected"),
    [((0.9, 1.0), 0.5), ((0.9, 0.0), 1.0), ((0.4, 0.0), 0.75), ((0.95, 1.0), 0.5)],
)
def test_effectiveness(after: tuple[float, float], expected: float) -> None:
    rating = defense_effectiveness(
        accuracy_before=0.9, accuracy_after=after[0], success_before=1.0, success_after=after[1]
    )
    assert rating == pytest.approx(expected)


def test_predict_runs_in_eval_mode_and_restores_the_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.9)).train()
    batches = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).split(3)
    first, second = predict(model, batches), predict(model, batches)
    assert torch.equal(first, second)
    assert model.training
    assert len(first) == 8


def test_predict_leaves_a_model_in_eval_mode_inside_a_wrapper_alone() -> None:
    model = torch.nn.BatchNorm1d(2).eval()
    wrapper = torch.nn.Sequential(model)
    wrapper.training = True
    predict(wrapper, [torch.randn(4, 2)])
    assert not model.training


def test_every_module_is_afterwards_in_the_mode_it_was_in() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with in_eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]
    with pytest.raises(RuntimeError), in_eval_mode(model):
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False]
