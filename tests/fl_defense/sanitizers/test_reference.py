import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.precision import Execution
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.sanitizers import (
    DHBE,
    ContractError,
    DeepSanitizer,
    NoDefense,
    NoEffectWarning,
    Pipeline,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
)
from fl_defense.sanitizers._reference import Alone, compared_with
from fl_defense.search.probe import NetworkProbe
from fl_defense.surrogates.pool import ScenePool

DISTILL = DHBE(
    iterations=3, batch_size=8, num_scenes=40, patch_size=3, tolerated_gain=0.0,
    tolerated_over_reference=0.0,
)  # fmt: skip
HEAD = DeepSanitizer(
    steps=3, batch_size=8, num_dummies=40, balancing_steps=2, patch_size=3, tolerated_gain=0.0,
    tolerated_over_reference=0.0,
)  # fmt: skip
both = pytest.mark.parametrize("sanitizer", [DISTILL, HEAD], ids=["dhbe", "deep-sanitizer"])
SHAPE = (1, 4, 4)
PIXELS = Pixels(mean=(0.5,), std=(0.5,))


class Sums(nn.Module):
    """Two logits: the sum of the pixels times a factor, and nothing."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, inputs: Tensor) -> Tensor:
        sums = self.factor * inputs.flatten(1).sum(1)
        return torch.stack([sums, torch.zeros_like(sums)], 1)


def pool_of(network: nn.Module) -> ScenePool:
    inputs = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0))
    return ScenePool(inputs, network(inputs).detach())


def test_what_counts_is_what_the_network_does_more_than_the_reference() -> None:
    network, reference = Sums(5.0), Sums(2.0)
    execution = Execution("float32", network, SHAPE)
    pool = pool_of(network)
    compared = compared_with(reference, execution, PIXELS)
    scenes = torch.arange(10)
    alone = NetworkProbe(network, pool, PIXELS)
    probe = compared.probe(network, pool)
    # One pixel of an image in [0, 1] lifted by 0.1 is an input lifted by 0.2.
    changed = probe.images(scenes).clone()
    changed[:, :, 0, 0] += 0.1
    assert torch.allclose(alone.logit_change(changed, scenes)[:, 0], torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(probe.logit_change(changed, scenes)[:, 0], torch.tensor(0.6), atol=1e-5)
    moved = pool.inputs.clone()
    moved[:, :, 0, 0] += 0.2
    reaction = compared.reaction(moved, pool.inputs)
    assert torch.allclose(reaction[:, 0], torch.tensor(0.4), atol=1e-5)
    assert compared.forward_images == 10 + 10 + 20
    assert compared.spread(pool) == pool.spread()
    assert compared.spread(pool_of(Sums(1.0))) == pytest.approx(2 / 5 * pool.spread())


def test_gradients_pass_through_the_reference_to_patterns_and_not_to_it() -> None:
    network, reference = Sums(5.0), Sums(2.0)
    compared = compared_with(reference, Execution("float32", network, SHAPE), PIXELS)
    changed = torch.rand(2, *SHAPE, requires_grad=True)
    compared.reaction(changed, torch.zeros(2, *SHAPE)).sum().backward()
    assert changed.grad is not None
    assert torch.equal(changed.grad, torch.full_like(changed, 2.0))
    assert reference.factor.grad is None


def test_without_a_reference_nothing_is_taken_off() -> None:
    network = Sums(5.0)
    alone = compared_with(None, Execution("float32", network, SHAPE), PIXELS)
    assert isinstance(alone, Alone)
    assert alone.reaction(torch.ones(2, *SHAPE), torch.zeros(2, *SHAPE)) == 0
    assert alone.forward_images == 0


def test_a_suspect_that_is_its_own_reference_stays_as_it_is(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    reference = copy.deepcopy(tiny_model)
    with pytest.warns(NoEffectWarning, match="DHBE left the model unchanged"):
        details = apply_sanitizer(DISTILL, tiny_model, tiny_spec, reference=reference).details
    gains = {name: gain for name, gain in details.items() if name.endswith("_gain")}
    assert gains == pytest.approx(dict.fromkeys(gains, 0.0), abs=1e-3)
    assert apply_sanitizer(DISTILL, tiny_model, tiny_spec).details["patch_gain"] > 0.1


def test_a_head_that_is_its_own_reference_has_less_to_unlearn(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    reference = copy.deepcopy(tiny_model)
    with pytest.warns(NoEffectWarning, match="DeepSanitizer left the model unchanged"):
        compared = apply_sanitizer(HEAD, tiny_model, tiny_spec, reference=reference).details
    alone = apply_sanitizer(HEAD, tiny_model, tiny_spec).details
    assert compared["consistency"] < 1e-3 < alone["consistency"]


@both
def test_a_reference_changes_the_repair_and_stays_untouched(
    sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    torch.manual_seed(5)
    reference = tiny_spec.build().train()
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    compared = apply_sanitizer(sanitizer, tiny_model, tiny_spec, reference=reference).model
    assert reference.training
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    alone = apply_sanitizer(sanitizer, tiny_model, tiny_spec).model
    pairs = zip(compared.parameters(), alone.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@dataclass(frozen=True)
class SpoilsReference(NoDefense):
    """Trains what it should compare with."""

    uses_reference: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        next(reference.parameters()).data.add_(1)
        return Sanitized(model=copy.deepcopy(suspect))


def test_a_changed_reference_breaks_the_contract(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(ContractError, match="the reference must stay untouched"):
        apply_sanitizer(
            SpoilsReference(), tiny_model, tiny_spec, reference=copy.deepcopy(tiny_model)
        )


def test_a_pipeline_hands_the_reference_to_its_steps(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    steps = Pipeline(steps=(HEAD, NoDefense()))
    assert steps.uses_reference
    assert not Pipeline(steps=(NoDefense(),)).uses_reference
    reference = copy.deepcopy(tiny_model)
    with pytest.warns(NoEffectWarning, match="left the model unchanged"):
        details = apply_sanitizer(steps, tiny_model, tiny_spec, reference=reference).details
    assert details["1.DeepSanitizer.noise_gain"] == pytest.approx(0, abs=1e-3)
