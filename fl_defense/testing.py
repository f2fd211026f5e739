"""The laws that methods keep, for the tests of whoever writes one.

    from fl_defense.testing import check_sanitizer_contract

    def test_mine_keeps_the_contract():
        check_sanitizer_contract(Mine(steps=2), model, spec)

Give settings that make it quick; every law calls the method a few times.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fl_defense.inspections import Inspection
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import Sanitized, Sanitizer, apply_sanitizer, check_sanitizer
from fl_defense.screens import Screen, ScreenedRound
from fl_defense.screens.apply import apply_screens

IMAGES = 2
"""Images on which a deployed model is tried."""


def small_spec() -> ModelSpec:
    """Return the structure of a small network with BatchNorm: gray 8x8 images, three classes.

    Example:
        >>> small_spec().build()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    return ModelSpec(build=_small_network, input_shape=(1, 8, 8), num_classes=3)


def _small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def check_sanitizer_contract(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """Hold a sanitizer to all of `SANITIZER_LAWS`.

    Args:
        sanitizer: with settings that make it quick.
        model: a network that it can repair, in eval mode; it stays as it is.
        spec: its structure.

    Raises:
        ContractError: if `apply_sanitizer` finds a broken clause.
        AssertionError: if another law is broken; the message says which.

    Example:
        >>> spec = small_spec()
        >>> from fl_defense import NoDefense
        >>> check_sanitizer_contract(NoDefense(), spec.build().eval(), spec)
    """
    for law in SANITIZER_LAWS.values():
        law(sanitizer, model, spec)


def check_inspection_contract(inspection: Inspection, model: nn.Module, spec: ModelSpec) -> None:
    """Hold an inspection to its contract: the model stays, and the seed decides what is found.

    Raises:
        AssertionError: if a law is broken; the message says which.

    Example:
        >>> spec = small_spec()
        >>> from fl_defense import FreeEagle
        >>> quick = FreeEagle(dummies_per_class=2, steps=2)
        >>> check_inspection_contract(quick, spec.build().eval(), spec)
    """
    name = type(inspection).__name__
    before, random = _arrays(model), torch.get_rng_state()
    inspection.check(model, spec)
    first, again = (inspection.inspect(model, spec, seed=1) for _ in range(2))
    assert _equal(_arrays(model), before), f"{name}: the model must stay untouched"
    assert torch.equal(torch.get_rng_state(), random), f"{name}: the global random state must stay"
    found = [(finding.anomaly, finding.suspected_class) for finding in (first, again)]
    assert found[0] == found[1], f"{name}: one seed must give one finding, got {found}"
    in_range = 0 <= first.suspected_class < spec.num_classes
    assert in_range, f"{name}: suspected_class must be in 0..{spec.num_classes - 1}, got {found[0]}"
    assert first.anomaly == first.anomaly, f"{name}: anomaly must be a number, got NaN"


def check_screen_contract(screen: Screen, shown: ScreenedRound, spec: ModelSpec) -> None:
    """Hold a screen to its contract on one round of replies.

    Raises:
        ScreenError: if `apply_screens` finds a broken clause.
        AssertionError: if another law is broken; the message says which.

    Example:
        >>> spec = small_spec()
        >>> from fl_defense import NormClipping
        >>> from fl_defense.screens import Reply
        >>> sent, trained = (spec.build().state_dict() for _ in range(2))
        >>> replies = [Reply(node=node, arrays=trained, num_examples=10.0) for node in (1, 2)]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> check_screen_contract(NormClipping(), shown, spec)
    """
    name = type(screen).__name__
    before = [
        {key: value.clone() for key, value in reply.arrays.items()} for reply in shown.replies
    ]
    sent = {key: value.clone() for key, value in shown.sent.items()}
    random, device = torch.get_rng_state(), torch.device("cpu")
    screen.check(spec.build().eval(), spec)
    torch.set_rng_state(random)
    said = [apply_screens([screen], shown, spec, seed=1, device=device) for _ in range(2)]
    failed = said[0].keep_sent or ""
    assert not failed.startswith(f"{name} failed"), failed
    assert torch.equal(torch.get_rng_state(), random), f"{name}: the global random state must stay"
    assert _equal(shown.sent, sent), f"{name}: what was sent must stay untouched"
    for reply, arrays in zip(shown.replies, before, strict=True):
        assert _equal(reply.arrays, arrays), (
            f"{name}: node {reply.node}'s reply must stay untouched"
        )
    weights = [[each.weight for each in one.verdicts] for one in said]
    assert weights[0] == weights[1], f"{name}: one seed must give one verdict, got {weights}"


def _result_replaces_the_suspect(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """A network of the architecture takes the result's weights; what is deployed gives logits."""
    result = apply_sanitizer(sanitizer, model, spec)
    spec.build().load_state_dict(result.model.state_dict())
    device = next(model.parameters()).device
    logits = result.deployed(spec)(torch.rand(IMAGES, *spec.input_shape, device=device))
    assert logits.shape == (IMAGES, spec.num_classes), f"logits of shape {tuple(logits.shape)}"


def _seed_decides(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """One seed gives one result, and the global random state stays."""
    before = torch.get_rng_state()
    first, again = (apply_sanitizer(sanitizer, model, spec, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before), "the global random state must stay"
    assert torch.equal(_weights(first, spec), _weights(again, spec)), "one seed, two results"


def _another_seed_matters(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """Another seed gives another result, if anything is drawn."""
    before = torch.get_rng_state()
    try:
        sanitizer.sanitize(model, spec)
        draws = not torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_rng_state(before)
    results = [apply_sanitizer(sanitizer, model, spec, seed=seed) for seed in (1, 2)]
    first, other = (_weights(result, spec) for result in results)
    same = torch.equal(first, other)
    assert same == (not draws), f"it draws: {draws}, two seeds give one result: {same}"


def _state_goes_on(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """What is carried changes the next result, and is not changed itself; without it, nothing."""
    first = apply_sanitizer(sanitizer, model, spec, seed=1)
    kept = copy.deepcopy(first.state)
    cold = apply_sanitizer(sanitizer, model, spec, seed=2)
    warm = apply_sanitizer(sanitizer, model, spec, seed=2, state=first.state)
    same = torch.equal(_weights(cold, spec), _weights(warm, spec))
    assert same == (first.state is None), f"state {first.state!r}, and the same result: {same}"
    assert repr(first.state) == repr(kept), "the state that is given must stay untouched"


def _mode_is_restored(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """A suspect in train mode is in train mode afterwards."""
    suspect = copy.deepcopy(model).train()
    apply_sanitizer(sanitizer, suspect, spec)
    assert suspect.training, "the suspect's mode must be restored"


def _check_accepts(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """What is repaired is not refused beforehand, and asking changes nothing."""
    before, random = _arrays(model), torch.get_rng_state()
    check_sanitizer(sanitizer, model, spec)
    assert torch.equal(torch.get_rng_state(), random), "the global random state must stay"
    assert _equal(_arrays(model), before), "check must leave the model untouched"


SANITIZER_LAWS: Mapping[str, Callable[[Sanitizer, nn.Module, ModelSpec], None]] = {
    "the result replaces the suspect": _result_replaces_the_suspect,
    "the seed decides": _seed_decides,
    "another seed matters": _another_seed_matters,
    "state goes on": _state_goes_on,
    "the mode is restored": _mode_is_restored,
    "check accepts what is repaired": _check_accepts,
}
"""The laws by name, beside those that `apply_sanitizer` enforces in each call."""


def _weights(result: Sanitized, spec: ModelSpec) -> Tensor:
    """Return all numbers of what is deployed, a purifier's included."""
    values = result.deployed(spec).state_dict().values()
    return torch.cat([value.flatten().double() for value in values])


def _arrays(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
