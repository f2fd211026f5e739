"""The commands to begin with: fl-defense list | schema | init | new-app."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.terminal import clear_errors, console, escape

app = typer.Typer()


@app.command("list")
def list_parts(
    name: Annotated[
        str | None,
        typer.Argument(help="defense, dhbe, ..., or scenario, scenarios, plans; default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a scenario may say: fields and parts, with defaults and meanings."""
    with clear_errors():
        from simulations.cli.list_fields import print_list

        print_list(name, as_json=as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario, for editors."""
    from simulations.scenario.load import scenario_schema

    print(json.dumps(scenario_schema(), indent=2))  # noqa: T201 - plain, for a pipe


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write into; made if need be.")],
    scenario: Annotated[
        str, typer.Option(help="What to begin with: a scenario that ships, or a file.")
    ] = "quickstart",
) -> None:
    """Write a commented scenario of your own, and the schema that editors check it by."""
    with clear_errors():
        from simulations.cli.beginnings import write_scenario

        path = write_scenario(folder, scenario)
        console.print(f"wrote {escape(str(path))}; edit it, then:")
        console.print(f"fl-defense run {escape(str(path))}")


@app.command("new-app")
def new_app(
    folder: Annotated[Path, typer.Argument(help="Folder of the new app; must not exist yet.")],
) -> None:
    """Write a Flower app whose server is defended; replace its network and data by yours."""
    with clear_errors():
        from simulations.cli.beginnings import write_app

        package = write_app(folder)
        console.print(f"wrote {escape(str(folder))}; its server: {package}/server_app.py")
        console.print(f"how to run it: {escape(str(folder / 'README.md'))}")
