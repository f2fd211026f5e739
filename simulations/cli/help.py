"""Keeps the sentences of arguments: click 8.5 has a `help` of its own, by which typer's is lost."""

from typing import Any

from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function


class Commands(TyperGroup):
    """All commands; each argument says what it is, with any click."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in self.commands.values():
            if command.callback is None:
                continue
            declared = get_params_from_function(command.callback)
            for argument in command.params:
                said = declared.get(argument.name or "")
                info = None if said is None else said.default
                if isinstance(argument, TyperArgument) and isinstance(info, ArgumentInfo):
                    argument.help = info.help
