from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fl_defense.inspections import TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import DHBE, apply_sanitizer
from fl_defense.search.distortions import DistortionSearch
from simulations.data import Digits, load_data
from tests.backdoored import Backdoored
from tests.fl_defense.search.test_distortions import PIXELS, SHAPE, Lifting, brightness, roughness

QUICK = TriggerSearch(num_scenes=40, steps=2, batch_size=8)


def test_the_planted_trigger_is_found_and_after_a_repair_it_is_not(backdoored: Backdoored) -> None:
    found = TriggerSearch().inspect(backdoored.model, backdoored.spec)
    assert found.suspected_class == 0
    assert found.kind == "patch"
    assert found.flip_rate > 0.95
    repaired = apply_sanitizer(DHBE.per_round(), backdoored.model, backdoored.spec, seed=0).model
    left = TriggerSearch().inspect(repaired, backdoored.spec)
    assert left.anomaly < 0.6 * found.anomaly


def test_the_patch_found_does_what_is_said_of_it(backdoored: Backdoored) -> None:
    found = TriggerSearch().inspect(backdoored.model, backdoored.spec)
    row, column = found.place
    side = found.patch.shape[-1]
    images = load_data(Digits()).test_images.float() / 255
    images[..., row : row + side, column : column + side] = found.patch
    logits = backdoored.model(backdoored.spec.pixels.normalize(images))
    assert (logits.argmax(1) == found.suspected_class).double().mean() > 0.8


def test_a_trigger_over_the_whole_image_is_found_too() -> None:
    spec = ModelSpec(
        build=lambda: Lifting(roughness), input_shape=SHAPE, num_classes=10, pixels=PIXELS
    )
    found = replace(QUICK, num_scenes=300).inspect(spec.build(), spec)
    assert (found.kind, found.suspected_class) == ("noise", 2)
    assert found.anomaly > QUICK.patch_bar
    assert found.flip_rate > 0.5
    assert found.place == (0, 0)
    assert found.patch.shape == SHAPE
    assert 0.05 < found.patch.abs().max() < 0.35
    without = replace(QUICK, num_scenes=300).inspect(Lifting(brightness), spec)
    assert without.kind == "patch"


class Noting(nn.Module):
    """Notes what a network is asked: under search if the images have gradients, else judged."""

    searched: ClassVar[list[Tensor]] = []
    judged: ClassVar[list[Tensor]] = []

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.requires_grad:
            self.searched.append(inputs.detach())
        elif self.searched:
            self.judged.append(inputs)
        logits: Tensor = self.network(inputs)
        return logits


def test_a_patch_is_measured_on_scenes_that_it_was_not_searched_on(
    tiny_model: nn.Module, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistortionSearch, "find", lambda *_: [])
    spec = replace(tiny_spec, input_shape=(1, 16, 16))
    Noting.searched.clear()
    Noting.judged.clear()
    replace(QUICK, num_scenes=20).inspect(Noting(tiny_model), spec)
    searched, judged = (torch.cat(kind).flatten(1) for kind in (Noting.searched, Noting.judged))
    alike = torch.stack([(searched == image).double().mean(1).max() for image in judged[::16]])
    # All pixels of a scene but those of two patches. Of the rest, a few scenes are black.
    assert len(judged) >= 128
    assert (alike > 1 - 2 * 5**2 / 16**2).double().mean() < 0.2


def test_a_network_that_gradients_do_not_pass_is_refused(tiny_spec: ModelSpec) -> None:
    model = tiny_spec.build().eval()
    model[0].register_forward_hook(lambda _module, _inputs, output: output.detach())
    with pytest.raises(ValueError, match="passes no gradient back to its images"):
        QUICK.check(model, tiny_spec)


def test_inspection_is_reproducible_and_leaves_everything_as_it_is(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tiny_model.train()
    random = torch.get_rng_state()
    first = QUICK.inspect(tiny_model, tiny_spec, seed=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert tiny_model.training
    again, other = (QUICK.inspect(tiny_model, tiny_spec, seed=seed) for seed in (3, 4))
    assert (first.anomaly, first.place) == (again.anomaly, again.place)
    assert first.anomaly != other.anomaly
    assert first.patch.shape == (1, 5, 5)
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_says_the_same_to_everything_is_no_suspect(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.zero_()
    assert QUICK.inspect(tiny_model, tiny_spec).anomaly == 0


def test_a_network_without_finite_answers_is_refused(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match="answers to scenes are not finite"):
        QUICK.inspect(tiny_model, tiny_spec)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 2}, "patch_size must be at least 3, got 2"),
        ({"num_scenes": 0}, "num_scenes must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
    ],
)
def test_meaningless_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriggerSearch(**fields)


def test_a_patch_larger_than_the_image_is_refused(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(ValueError, match="patch_size must be at most the image's 8, got 9"):
        replace(QUICK, patch_size=9).inspect(tiny_model, tiny_spec)
