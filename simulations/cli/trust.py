"""The explicit act by which a file that the user has not named may choose code to run."""

from typing import Annotated

import typer

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import code that a scenario.yaml beside the files names; it runs as you do.",
    ),
]
