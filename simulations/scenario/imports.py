"""The door to anybody's own: "package.module:Class".

Importing a module runs its code. Who writes a scenario can therefore run what lies on the path; a
scenario that nobody named is read with `trust_imports=False`. What is imported is looked at before
it is called: an entry of a table is a frozen dataclass that keeps the table's protocol, a model is
a network's class or a function that says it returns one, an aggregator is likewise a strategy's.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import reduce
from typing import Any, Protocol, get_type_hints

from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_defense.validation import one_line
from simulations.aggregators import sampling


def import_object(path: str) -> Any:
    """Return what "package.module:name" names; the name may be dotted.

    Raises:
        ValueError: if it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except Exception as error:  # anybody's module may raise anything
        known = isinstance(error, (ImportError, AttributeError, ValueError))
        reason = str(error) if known else one_line(error)
        raise ValueError(
            f"cannot import {path!r} ({reason}); write package.module:name, and put the folder "
            "in which the package lies on PYTHONPATH if it is not installed"
        ) from error


def place_of(cls: type) -> str:
    """Return the path from which a class can be imported."""
    return f"{cls.__module__}:{cls.__qualname__}"


def misfit(found: Any, protocol: type) -> str | None:
    """Say what keeps an object from being an entry of a table, or None if nothing does.

    Args:
        found: what was imported.
        protocol: what entries must keep: a protocol, or an abstract base class.

    Returns:
        The rest of a sentence that begins with the object's name.
    """
    if not inspect.isclass(found) or not is_dataclass(found) or not _is_frozen(found):
        return "must be a frozen dataclass: put @dataclass(frozen=True, kw_only=True) above it"
    open_members: frozenset[str] = getattr(found, "__abstractmethods__", frozenset())
    fields = found.__dataclass_fields__
    for name, member in _members(protocol):
        own = getattr(found, name, None)
        if name in open_members or (own is None and name not in fields):
            return f"lacks {name!r}, which every {protocol.__name__} has; add it"
        if inspect.isfunction(member) and not _takes_call_of(own, member):
            wanted = ", ".join(inspect.signature(member).parameters)
            return f"has a {name!r} that cannot be called with ({wanted}); change its arguments"
    return None


def _members(protocol: type) -> Iterator[tuple[str, Any]]:
    """Yield the public names that a protocol or a base class demands, with their definitions."""
    for base in protocol.__mro__:
        if base in (object, Protocol) or base.__module__ in ("typing", "collections.abc"):
            continue
        names = {**vars(base), **inspect.get_annotations(base)}
        yield from ((name, vars(base).get(name)) for name in names if not name.startswith("_"))


def _is_frozen(cls: Any) -> bool:
    return bool(cls.__dataclass_params__.frozen)


def _takes_call_of(own: Any, member: Callable[..., Any]) -> bool:
    """Tell whether a method can be called as the protocol's is."""
    positional: list[None] = []
    named: dict[str, None] = {}
    for name, parameter in inspect.signature(member).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = None
        else:
            positional.append(None)
    try:
        inspect.signature(own).bind(*positional, **named)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Factory:
    """Anybody's network: a class of networks, or a function that says it returns one.

    It is called with `arguments`, and with `num_classes` if it takes that.
    """

    path: str
    """Where it is: "package.module:function", for example torchvision.models:resnet18."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def __post_init__(self) -> None:
        _maker_of(nn.Module, self.path)

    def __hash__(self) -> int:
        return hash((self.path, repr(sorted(self.arguments.items()))))

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Call it; `input_shape` is not passed, put what is needed of it into `arguments`.

        Raises:
            ValueError: if it fails, or returns no network.
        """
        del input_shape
        model: nn.Module = _call(nn.Module, self.path, {"num_classes": num_classes}, self.arguments,
                                 field="model.arguments")  # fmt: skip
        return model


@dataclass(frozen=True, kw_only=True)
class StrategyFactory:
    """Anybody's aggregation: a class of Flower's strategies, or a function that returns one.

    It is called with `arguments`, and with those of Flower's arguments that it takes and that make
    it ask the scenario's number of clients: `fraction_train`, `min_train_nodes`,
    `min_available_nodes` and `fraction_evaluate`.
    """

    path: str
    """Where it is: "package.module:Strategy"."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def __post_init__(self) -> None:
        _maker_of(Strategy, self.path)

    def __hash__(self) -> int:
        return hash((self.path, repr(sorted(self.arguments.items()))))

    def check(self, num_replies: int) -> None:
        """Raise ValueError if it cannot be called."""
        self.build(num_replies, num_replies)

    def build(self, num_replies: int, num_clients: int) -> Strategy:
        """Call it.

        Raises:
            ValueError: if it fails, or returns no strategy.
        """
        offered = sampling(num_replies, num_clients)
        strategy: Strategy = _call(Strategy, self.path, offered, self.arguments,
                                   field="aggregator.arguments")  # fmt: skip
        return strategy


def _maker_of(kind: type, path: str) -> Callable[..., Any]:
    """Import a subclass of `kind`, or a function in Python that is annotated to return one.

    Anything else is refused before it is called: os.system is a function, too.
    """
    found = import_object(path)
    wanted = f"a subclass of {kind.__name__}, or a function annotated to return one"
    if inspect.isclass(found):
        fits = issubclass(found, kind)
    elif inspect.isfunction(found):
        fits = _returns(found, kind)
        if not fits:
            wanted += f": def {found.__name__}(...) -> {kind.__name__}"
    else:
        fits = False
    if not fits:
        raise ValueError(f"{path!r} must be {wanted}; got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _returns(function: Callable[..., Any], kind: type) -> bool:
    try:
        returned = get_type_hints(function).get("return")
    except Exception:  # noqa: BLE001 - names in anybody's annotations may not exist
        return False
    return inspect.isclass(returned) and issubclass(returned, kind)


def _call(
    kind: type,
    path: str,
    offered: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    field: str,
) -> Any:
    """Call what lies at a path with what it takes of `offered`, and with all of `arguments`."""
    given: dict[str, Any] = dict(arguments)
    try:
        maker = _maker_of(kind, path)
        given = {name: value for name, value in offered.items() if _takes(maker, name)} | given
        result = maker(**given)
    except Exception as error:  # anybody's function may raise anything
        raise ValueError(
            f"{path} cannot be called with {given} ({one_line(error)}); change {field}"
        ) from error
    if not isinstance(result, kind):
        raise ValueError(f"{path} must return a {kind.__name__}, got {type(result).__name__}")
    return result


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function takes an argument of this name, as far as can be seen."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
