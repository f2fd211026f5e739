"""Refusals of wrong settings, in one form: what it is, what it must be, what was given."""

from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def require(condition: bool, name: str, wanted: str, got: object) -> None:
    """Refuse the setting `name` unless a condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {wanted}, got {got}")


def require_at_least(settings: object, **bounds: float) -> None:
    """Refuse settings whose attributes are below their bounds.

    Example:
        >>> from types import SimpleNamespace
        >>> require_at_least(SimpleNamespace(steps=0), steps=1)
        Traceback (most recent call last):
        ValueError: steps must be at least 1, got 0
    """
    for name, bound in bounds.items():
        got = getattr(settings, name)
        require(got >= bound, name, f"at least {bound:g}", got)


def require_positive(settings: object, *names: str) -> None:
    """Refuse settings whose attributes are not above 0.

    Example:
        >>> from types import SimpleNamespace
        >>> require_positive(SimpleNamespace(lr=0.0), "lr")
        Traceback (most recent call last):
        ValueError: lr must be positive, got 0.0
    """
    for name in names:
        got = getattr(settings, name)
        require(got > 0, name, "positive", got)


def require_share(settings: object, *names: str) -> None:
    """Refuse settings whose attributes are not in [0, 1]."""
    for name in names:
        got = getattr(settings, name)
        require(0 <= got <= 1, name, "in [0, 1]", got)


def require_word(name: str, kind: Any, got: object) -> None:
    """Refuse the setting `name` unless it is one of those that a Literal type lists."""
    words = get_args(kind)
    require(got in words, name, f"one of {', '.join(map(str, words))}", got)


def require_declared(settings: object) -> None:
    """Refuse settings that are not what their types declare.

    That is: words of a Literal, whole numbers, and tuples of so many numbers.
    """
    for name, kind in get_type_hints(type(settings)).items():
        got = getattr(settings, name)
        if get_origin(kind) is Literal:
            require_word(name, kind, got)
        elif kind is int:
            whole = isinstance(got, Integral) and not isinstance(got, bool)
            require(whole, name, "a whole number", got)
        elif get_origin(kind) is tuple and get_args(kind)[0] in (int, float):
            _require_numbers(name, get_args(kind), got)
        elif isinstance(got, str) and get_origin(kind) in (Union, UnionType):
            for arm in get_args(kind):
                if get_origin(arm) is Literal:
                    require_word(name, arm, got)


def _require_numbers(name: str, arms: tuple[Any, ...], got: object) -> None:
    """Refuse what is no tuple or list of numbers, one for each arm unless they end in `...`."""
    any_length = arms[-1] is Ellipsis
    are_numbers = (
        isinstance(got, (tuple, list))
        and all(isinstance(value, Real) for value in got)
        and (any_length or len(got) == len(arms))
    )
    require(are_numbers, name, "numbers" if any_length else f"{len(arms)} numbers", got)


def one_line(error: Exception) -> str:
    """Return an error's kind and message in one line, cut short."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def require_instance(name: str, kind: type, value: object) -> None:
    """Raise ValueError, naming the argument, unless `value` is one of `kind` or None.

    >>> require_instance("count", int, None)
    """
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__} or None, got {value!r}")
