import copy
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import DeepSanitizer, apply_sanitizer
from fl_defense.sanitizers.apply import check_sanitizer
from fl_defense.sanitizers.deep_sanitizer.head_repair import HeadRepair
from fl_defense.search.noise import Noise
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN
from tests.backdoored import Backdoored

TINY = DeepSanitizer(
    steps=2, batch_size=8, num_dummies=40, balancing_steps=2, patch_size=3, tolerated_gain=0.0
)


def repair_of(settings: DeepSanitizer, model: nn.Module, spec: ModelSpec) -> HeadRepair:
    torch.manual_seed(0)
    suspect = copy.deepcopy(model).eval().requires_grad_(False)
    _, head = spec.split(copy.deepcopy(model).eval())
    return settings.head_repair(suspect, head, spec)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 16)])
@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        replace(TINY, patch_size=12, balancing_steps=0),
        replace(TINY, head_batchnorm="train", warm_start=True),
    ],
    ids=["short", "whole image", "train"],
)
def test_runs_on_any_image_shape(settings: DeepSanitizer, shape: tuple[int, int, int]) -> None:
    spec = ModelSpec(
        build=partial(SmallCNN(width=4).build, shape, 3), input_shape=shape, num_classes=3
    )
    torch.manual_seed(0)
    result = apply_sanitizer(settings, spec.build(), spec)
    details = {"fidelity", "consistency", "least_class_share", "forward_images"}
    details |= {"distortion", "patch_gain"} | {"noise_gain", "warp_gain", "wave_gain"}
    assert set(result.details) == details


def test_a_linear_cut_works_too() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3)
        )

    spec = ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=3, inspect_at="2")
    torch.manual_seed(0)
    apply_sanitizer(TINY, build(), spec)


def test_the_extractor_stays_and_the_head_changes(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    before = weights(tiny_model)
    after = weights(apply_sanitizer(TINY, tiny_model, tiny_spec).model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # The default cut of the small network lies after its second pooling, submodule 7.
    assert {name.split(".")[0] for name in changed} == {"8", "9", "13"}


def test_frozen_batchnorm_keeps_its_statistics(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    after = weights(apply_sanitizer(TINY, tiny_model, tiny_spec).model)
    updating = replace(TINY, head_batchnorm="train")
    trained = weights(apply_sanitizer(updating, tiny_model, tiny_spec).model)
    before = weights(tiny_model)
    assert torch.equal(after["9.running_mean"], before["9.running_mean"])
    assert not torch.equal(trained["9.running_mean"], before["9.running_mean"])


def test_dummies_are_balanced_and_remain_near_real_features(backdoored: Backdoored) -> None:
    torch.manual_seed(0)
    repair = repair_of(DeepSanitizer(), backdoored.model, backdoored.spec)
    assert repair.dummies.classes.bincount().tolist() == [200] * 10
    seen = repair.dummy_logits.argmax(1)
    plain = repair.head(repair.features).argmax(1)
    least_before = plain.bincount(minlength=10).min()
    assert least_before < 40
    assert repair.least_class_share() > 0.7
    assert (seen == repair.dummies.classes).float().mean() > 0.9
    assert repair.dummies.features.min() >= repair.features.min()
    moved = (repair.dummies.features - repair.features).flatten(1).norm(dim=1)
    assert moved.mean() < repair.features.flatten(1).norm(dim=1).mean()


def test_a_perfect_copy_has_no_fidelity_loss(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    repair = repair_of(TINY, tiny_model, tiny_spec)
    fidelity, consistency = repair.patch_losses()
    assert fidelity.item() == pytest.approx(0, abs=1e-6)
    assert consistency.item() > 0
    consistency.backward()
    assert all(p.grad is not None for p in repair.head.parameters())
    assert all(p.grad is None for p in repair.extractor.parameters())


def test_what_counts_is_how_far_a_patched_scene_lifts_a_class(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    """Twelve scenes alike, so that chance decides nothing; the head is a linear layer."""
    repair = repair_of(replace(TINY, patched_scenes=4), tiny_model, tiny_spec)
    patched = repair.patches.patch(repair.pool.inputs[:1])
    repair.pool.inputs[:] = repair.pool.inputs[:1]
    repair.features[:] = repair.features[:1]
    repair.patches.patch = lambda inputs: patched.expand(len(inputs), -1, -1, -1)  # type: ignore[method-assign]
    change = repair.student(patched) - repair.head(repair.features[:1])
    gain = (change - change.mean()).max().item()
    for tolerated in (0.0, 0.25 * gain, 2 * gain):
        repair.tolerated = tolerated
        expected = max(0.0, gain - tolerated)
        assert repair.patch_losses()[1].item() == pytest.approx(expected, abs=1e-5)


def test_the_search_goes_on_against_what_is_repaired(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    repair = repair_of(replace(TINY, searched_scenes=9), tiny_model, tiny_spec)
    before = repair.patches.search.patches.clone()
    asked = repair.head.forward_images
    repair.patches.step(repair.student)
    changed = (repair.patches.search.patches != before).flatten(1).any(1)
    assert 1 <= changed.sum() <= 3
    assert repair.head.forward_images - asked == 9 * repair.head.share


def test_a_warm_start_carries_the_patches(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    assert apply_sanitizer(TINY, tiny_model, tiny_spec).state is None
    settings = replace(TINY, warm_start=True)
    state = apply_sanitizer(settings, tiny_model, tiny_spec).state
    assert state is not None
    restored = pickle.loads(pickle.dumps(state))
    one = apply_sanitizer(settings, tiny_model, tiny_spec, state=state).model
    other = apply_sanitizer(settings, tiny_model, tiny_spec, state=restored).model
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"channel_dropout": 1.0}, r"channel_dropout must be in \[0, 1\), got 1.0"),
        ({"distorted_share": 1.1}, r"distorted_share must be in \[0, 1\], got 1.1"),
        ({"head_lr": 0.0}, "head_lr must be positive, got 0"),
        ({"head_betas": (0.9, 1.0)}, r"head_betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        ({"anchor_weight": -1.0}, "anchor_weight must be at least 0"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got float16"),
        ({"patch_size": 2}, "patch_size must be at least 3 or null, got 2"),
    ],
)
def test_meaningless_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepSanitizer(**fields)


def test_the_heads_adam_forgets_as_it_is_told(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    default, *others = (
        apply_sanitizer(replace(TINY, head_betas=betas), tiny_model, tiny_spec, seed=0)
        for betas in ((0.9, 0.999), (0.8, 0.999), (0.9, 0.95))
    )
    for other in others:
        changed = weights(other.model)
        assert any(not torch.equal(v, changed[n]) for n, v in weights(default.model).items())


def test_what_does_not_fit_the_model_is_refused(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(ValueError, match="patch_size must be at most the image's 8, got 9"):
        apply_sanitizer(replace(TINY, patch_size=9), tiny_model, tiny_spec)
    spec = replace(tiny_spec, build=ResNet(width=4).build, inspect_at="nowhere")
    with pytest.raises(ValueError, match="no submodule 'nowhere'; possible: 0, 1"):
        apply_sanitizer(TINY, tiny_model, spec)


@pytest.mark.parametrize(
    ("settings", "accuracy_lost"),
    [
        (DeepSanitizer.per_round(), 0.06),
        (replace(DeepSanitizer.quick(), precision="bfloat16"), 0.12),
    ],
)
def test_the_backdoor_falls_and_accuracy_stays(
    backdoored: Backdoored, settings: DeepSanitizer, accuracy_lost: float
) -> None:
    before = backdoored.measure(DeployedModel(backdoored.model, backdoored.spec.pixels))
    repaired = apply_sanitizer(settings, backdoored.model, backdoored.spec, seed=0)
    accuracy, success, robust = backdoored.measure(repaired.deployed(backdoored.spec))
    assert before[1] > 0.95
    # Measured with seed 0: success 0.11 and 0.13, accuracy 0.99; before: 1.000 and 0.997.
    assert success < 0.2
    assert accuracy > before[0] - accuracy_lost
    assert robust > 0.8


def test_a_backdoor_over_the_whole_image_falls_and_accuracy_stays(blended: Backdoored) -> None:
    before = blended.measure(DeployedModel(blended.model, blended.spec.pixels))
    # On images as small as these the default leaves half of it: twice its weight is needed.
    default = apply_sanitizer(DeepSanitizer.per_round(), blended.model, blended.spec, seed=0)
    assert blended.measure(default.deployed(blended.spec))[1] < 0.6
    settings = DeepSanitizer(distortion_weight=1.0)
    repaired = apply_sanitizer(settings, blended.model, blended.spec, seed=0)
    accuracy, success, robust = blended.measure(repaired.deployed(blended.spec))
    assert repaired.details["noise_gain"] > Noise().bar
    assert before[1] > 0.9
    # Six seeds leave 0.15 to 0.35 with robust accuracy 0.50 to 0.60, seed 0 0.24 with 0.58: noise
    # hides much of digits of 16x16 pixels.
    assert success < 0.3
    assert accuracy > before[0] - 0.12
    assert robust > 0.5


def test_looking_for_distortions_changes_nothing_where_there_are_none(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    looked = weights(apply_sanitizer(TINY, tiny_model, tiny_spec, seed=0).model)
    without = replace(TINY, distorted_share=0.0)
    did_not = weights(apply_sanitizer(without, tiny_model, tiny_spec, seed=0).model)
    assert all(torch.equal(value, did_not[name]) for name, value in looked.items())


@pytest.mark.parametrize(("cut", "told"), [("4", True), ("2", False), (None, True)])
def test_a_head_of_one_linear_layer_is_told_before_anything_runs(
    cut: str | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def build() -> nn.Module:
        layers = (nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        return nn.Sequential(nn.Flatten(), *layers)

    spec = ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=3, inspect_at=cut)
    check_sanitizer(DeepSanitizer(patch_size=3), build().eval(), spec)
    assert ("one linear layer stands behind the cut after '4'" in caplog.text) == told
