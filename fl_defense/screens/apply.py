"""The one function that calls screens, in order, and holds them to their contract."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fl_defense.log import logger
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import seeded
from fl_defense.screens.base import EarlierModel, Reply, Screen, ScreenedRound, Screening, Verdict
from fl_defense.state import State


def check_screens(screens: Sequence[Screen], spec: ModelSpec) -> None:
    """Ask screens, before any round, whether they can work with models of `spec`.

    Raises:
        ValueError: if one is no screen, or cannot; the message says which and why.
    """
    for screen in screens:
        if isinstance(screen, type) or not isinstance(screen, Screen):
            raise ValueError(f"screens must be screens such as NormClipping(), got {screen!r}")
        with torch.random.fork_rng(devices=[]):
            screen.check(spec.build().eval(), spec)


class ScreenError(RuntimeError):
    """A screen broke its promise: the message names the screen and the broken clause."""


@dataclass(frozen=True, kw_only=True)
class ScreenReport:
    """What one screen said of a round."""

    screen: str
    """Class of the screen."""
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    """By node; of the replies that the screens before it let through."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What was found: JSON values."""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """Patterns that were found: images (C, H, W) in [0, 1]."""
    seconds: float = 0.0
    """Wall-clock time."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, without the pictures and the replaced arrays."""
        return {
            "screen": self.screen,
            "verdicts": [
                {"node": node, "weight": said.weight, "score": said.score, "reason": said.reason}
                | ({} if said.suspects is None else {"suspected": said.is_suspicion})
                for node, said in self.verdicts.items()
            ],
            **self.details,
        }


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What all screens together made of a round's replies."""

    verdicts: tuple[Verdict, ...]
    """One per reply: weights multiplied, the last replaced arrays, all reasons."""
    keep_sent: str | None = None
    """Why nothing is to be aggregated, or None."""
    send_again: EarlierModel | None = None
    """What is sent next in that case, in place of the model sent out; None: that one."""
    is_suspicious: bool = False
    """Whether some screen suspects what is left."""
    reports: tuple[ScreenReport, ...] = ()
    """One per screen that ran."""
    states: State = field(default_factory=dict)
    """What the screens carry to the next round, by place and class."""


def apply_screens(
    screens: Sequence[Screen],
    shown: ScreenedRound,
    spec: ModelSpec,
    *,
    seed: int,
    device: torch.device,
    states: State | None = None,
) -> Screened:
    """Run screens one after the other; each sees what those before it let through.

    A screen that fails lets nothing through: what was not screened is not aggregated. A state that
    a screen refuses is dropped, and the screen begins afresh.

    Args:
        screens: in order.
        shown: what was sent out and what came back.
        spec: structure of the model.
        seed: of all that a screen draws, together with the round; the global random state stays.
        device: where to compute.
        states: `Screened.states` of the round before; None in the first.

    Raises:
        ScreenError: if a screen broke its contract.
    """
    whole = Screened(verdicts=tuple(Verdict() for _ in shown.replies), states=dict(states or {}))
    for place, screen in enumerate(screens):
        kept = [index for index, said in enumerate(whole.verdicts) if said.weight > 0]
        if not kept or whole.keep_sent is not None:
            break
        replies = [_as_left(shown.replies[index], whole.verdicts[index]) for index in kept]
        key = f"{place} {type(screen).__name__}"
        started = time.perf_counter()
        with seeded(_seed(seed, shown.number, place), device):
            screening = _screen(
                screen, replace(shown, replies=replies), spec, device, whole.states.get(key)
            )
        _check(screen, screening, replies, shown.sent)
        report = ScreenReport(
            screen=type(screen).__name__,
            verdicts={
                reply.node: said for reply, said in zip(replies, screening.verdicts, strict=True)
            },
            details=screening.details,
            pictures=screening.pictures,
            seconds=time.perf_counter() - started,
        )
        verdicts = list(whole.verdicts)
        for index, said in zip(kept, screening.verdicts, strict=True):
            verdicts[index] = _joined(verdicts[index], said)
        whole = Screened(
            verdicts=tuple(verdicts),
            keep_sent=screening.keep_sent,
            send_again=screening.send_again,
            is_suspicious=whole.is_suspicious or screening.is_suspicious,
            reports=(*whole.reports, report),
            states={**whole.states, key: screening.state},
        )
    if whole.keep_sent is None and not any(said.weight > 0 for said in whole.verdicts):
        return replace(whole, keep_sent="every reply was left out")
    return whole


def _screen(
    screen: Screen, shown: ScreenedRound, spec: ModelSpec, device: torch.device, state: State | None
) -> Screening:
    """Run one screen; where it fails, once more without its state, and then keep what was sent."""
    name = type(screen).__name__
    try:
        try:
            return screen.screen(shown, spec, device=device, state=state)
        except ValueError as error:
            if state is None:
                raise
            logger.warning(
                "round %d: %s begins afresh, its memory was refused: %s", shown.number, name, error
            )
            screening = screen.screen(shown, spec, device=device, state=None)
            return replace(screening, details={**screening.details, "memory_refused": str(error)})
    except Exception as error:  # noqa: BLE001 - a screen works on what clients have sent
        logger.exception("round %d: %s failed", shown.number, name)
        reason = f"{name} failed ({type(error).__name__}: {error}), and nothing unscreened is taken"
        return Screening.of_nobody(shown, keep_sent=reason)


def _as_left(reply: Reply, said: Verdict) -> Reply:
    """Return the reply as earlier screens have left it."""
    return replace(
        reply,
        arrays=reply.arrays if said.arrays is None else said.arrays,
        num_examples=reply.num_examples * said.weight,
    )


def _joined(earlier: Verdict, later: Verdict) -> Verdict:
    """Return the verdict of two screens together; the score is the later one's."""
    return Verdict(
        weight=earlier.weight * later.weight,
        score=later.score,
        reason="; ".join(reason for reason in (earlier.reason, later.reason) if reason),
        arrays=earlier.arrays if later.arrays is None else later.arrays,
        suspects=earlier.is_suspicion or later.is_suspicion,
    )


def _check(
    screen: Screen, screening: Screening, replies: Sequence[Reply], sent: Mapping[str, Tensor]
) -> None:
    name = type(screen).__name__
    if len(screening.verdicts) != len(replies):
        raise ScreenError(
            f"{name}: must give one verdict per reply, {len(replies)}, "
            f"got {len(screening.verdicts)}"
        )
    if screening.send_again is not None:
        if screening.keep_sent is None:
            raise ScreenError(f"{name}: must say by keep_sent why an earlier model is sent again")
        _check_arrays(name, screening.send_again.arrays, sent)
    for reply, said in zip(replies, screening.verdicts, strict=True):
        if not 0 <= said.weight <= 1:
            raise ScreenError(f"{name}: weights must be in [0, 1], got {said.weight}")
        if said.score is not None and not math.isfinite(said.score):
            raise ScreenError(f"{name}: scores must be finite, got {said.score}")
        if said.weight < 1 and not said.reason:
            raise ScreenError(f"{name}: must say why node {reply.node} weighs {said.weight}")
        if said.arrays is not None:
            _check_arrays(name, said.arrays, sent)


def _check_arrays(name: str, arrays: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> None:
    if list(arrays) != list(sent):
        raise ScreenError(f"{name}: arrays must be those sent out, in their order")
    for key in sent:
        old, new = sent[key], arrays[key]
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ScreenError(
                f"{name}: {key!r} must stay {tuple(old.shape)} {old.dtype}, "
                f"got {tuple(new.shape)} {new.dtype}"
            )
        if new.is_floating_point() and not torch.isfinite(new).all():
            raise ScreenError(f"{name}: {key!r} must be finite, got NaN or Inf")


def _seed(seed: int, server_round: int, place: int) -> int:
    """Return a seed for one screen in one round."""
    return (seed * 1_000_003 + server_round) * 101 + place
