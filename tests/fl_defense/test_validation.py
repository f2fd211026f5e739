from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from fl_defense.validation import (
    require,
    require_at_least,
    require_declared,
    require_instance,
    require_positive,
    require_share,
    require_word,
)

SETTINGS = SimpleNamespace(steps=3, weight=0.0, share=1.0, size=-1)


def test_settings_within_their_ranges_pass() -> None:
    require(True, "steps", "three", 3)
    require_at_least(SETTINGS, steps=3, weight=0)
    require_positive(SETTINGS, "steps", "share")
    require_share(SETTINGS, "weight", "share")


def test_a_setting_outside_its_range_is_named_with_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"^steps must be even, got 3$"):
        require(False, "steps", "even", 3)
    with pytest.raises(ValueError, match=r"^steps must be at least 4, got 3$"):
        require_at_least(SETTINGS, weight=0, steps=4)
    with pytest.raises(ValueError, match=r"^weight must be positive, got 0.0$"):
        require_positive(SETTINGS, "steps", "weight")
    with pytest.raises(ValueError, match=r"^steps must be in \[0, 1\], got 3$"):
        require_share(SETTINGS, "share", "steps")
    with pytest.raises(ValueError, match=r"^size must be in \[0, 1\], got -1$"):
        require_share(SETTINGS, "size")


def test_nan_is_in_no_range() -> None:
    settings = SimpleNamespace(rate=float("nan"))
    for check in (require_positive, require_share):
        with pytest.raises(ValueError, match="rate must be"):
            check(settings, "rate")
    with pytest.raises(ValueError, match="rate must be"):
        require_at_least(settings, rate=-1)


def test_a_word_that_is_not_listed_is_named_with_those_that_are() -> None:
    require_word("mode", Literal["eval", "train"], "train")
    with pytest.raises(ValueError, match=r"^mode must be one of eval, train, got Train$"):
        require_word("mode", Literal["eval", "train"], "Train")


@dataclass(frozen=True)
class Modes:
    mode: Literal["eval", "train"] = "eval"
    depth: Literal[10, 18] = 18
    side: int | Literal["any"] = 7
    steps: int = 3
    betas: tuple[float, float] = (0.9, 0.999)
    rates: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        require_declared(self)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "eval "}, "mode must be one of eval, train, got eval "),
        ({"depth": 34}, "depth must be one of 10, 18, got 34"),
        ({"side": "all"}, "side must be one of any, got all"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": None}, "steps must be a whole number, got None"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"betas": 0.9}, "betas must be 2 numbers, got 0.9"),
        ({"betas": (0.9,)}, r"betas must be 2 numbers, got \(0.9,\)"),
        ({"betas": ("0.9", 0.5)}, r"betas must be 2 numbers, got \('0.9', 0.5\)"),
        ({"rates": None}, "rates must be numbers, got None"),
    ],
)
def test_what_a_dataclass_declares_is_required(fields: dict[str, Any], message: str) -> None:
    Modes(mode="train", depth=10, side="any", steps=np.int64(4))
    Modes(betas=[np.float64(0), 1], rates=())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{message}$"):
        Modes(**fields)


def test_an_argument_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match="schedule must be a int or None, got 'x'"):
        require_instance("schedule", int, "x")
