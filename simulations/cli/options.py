"""Options that several commands share: the fields of a dataclass, which commands take as one."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of the dataclass that one of its arguments is.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Shared:
        ...     seed: int = 0
        >>> @with_shared_options
        ... def show(name: str, shared: Shared) -> None:
        ...     print(name, shared.seed)
        >>> list(inspect.signature(show).parameters)
        ['name', 'seed']
        >>> show(name="a", seed=3)
        a 3
    """
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    ((argument, kind),) = (pair for pair in hints.items() if dataclasses.is_dataclass(pair[1]))
    fields, shared = dataclasses.fields(kind), get_type_hints(kind, include_extras=True)
    options = [
        *((name, hints[name], each.default) for name, each in parameters.items()),
        *((field.name, shared[field.name], field.default) for field in fields),
    ]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        values = {field.name: given.pop(field.name) for field in fields}
        command(**given, **{argument: kind(**values)})

    kept = [option for option in options if option[0] != argument]
    signature = inspect.Signature(
        [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )
            for name, hint, default in kept
        ]
    )
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {name: hint for name, hint, _ in kept}
    return called
