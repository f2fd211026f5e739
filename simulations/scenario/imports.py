"""The door to anybody's own: "package.module:factory"."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fl_defense.validation import one_line


@dataclass(frozen=True, kw_only=True)
class Factory:
    """Anybody's network: an importable class, or a function that returns one.

    It is called with `arguments`, and with `num_classes` if it takes that.
    """

    path: str
    """Where it is: "package.module:function", for example torchvision.models:resnet18."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def __post_init__(self) -> None:
        _import_factory(self.path)

    def __hash__(self) -> int:
        return hash((self.path, repr(sorted(self.arguments.items()))))

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Call it; `input_shape` is not passed, put what is needed of it into `arguments`.

        Raises:
            ValueError: if it fails, or returns no network.
        """
        del input_shape
        told: dict[str, Any] = {}
        try:
            factory = _import_factory(self.path)
            told = {"num_classes": num_classes} if _takes(factory, "num_classes") else {}
            told |= self.arguments
            model = factory(**told)
        except Exception as error:  # anybody's function may raise anything
            raise ValueError(
                f"{self.path} cannot be called with {told} ({one_line(error)}); "
                "change model.arguments"
            ) from error
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{self.path} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return model


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function takes an argument of this name, as far as it can be told."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _import_factory(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {path!r} ({error}); write package.module:function, and put the folder "
            "in which the package lies on PYTHONPATH if it is not installed"
        ) from error
    if not callable(factory):
        raise ValueError(f"{path!r} is not callable; name a function or class that returns a model")
    return factory  # type: ignore[no-any-return]
