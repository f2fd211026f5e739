"""What every command shares: where it prints, and how it ends when something is wrong."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


errors = Console(stderr=True, highlight=False, soft_wrap=True)


EXIT_FAILED, EXIT_BAD_INPUT, EXIT_SUSPECT, EXIT_INTERRUPTED = 1, 2, 3, 130


@contextmanager
def clear_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn faults of the input into one line each and exit 2; a failed federation into exit 1.

    So does a fault of the machine, such as a full disk.

    Args:
        interrupted: printed on Ctrl-C.
    """
    from fl_defense.model.files import ModelFileError
    from simulations.engines.base import EngineError
    from simulations.extras import how_to_get
    from simulations.measurement.recorder import FederationError
    from simulations.scenario import ConfigError

    try:
        yield
    except ConfigError as error:
        for fault in error.faults:
            errors.print(f"[red]error:[/red] {escape(fault)}")
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except ModelFileError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except ModuleNotFoundError as error:
        line = how_to_get(error.name or "")
        if line is None:
            raise
        errors.print(f"[red]error:[/red] {escape(line)}")
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except (FederationError, EngineError) as error:
        errors.print(f"[red]failed:[/red] {escape(str(error))}")
        raise typer.Exit(EXIT_FAILED) from None
    except BrokenPipeError:
        raise  # whoever read our output has gone: typer ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        errors.print(f"[red]failed:[/red] {escape(f'{where}{reason}; {interrupted}')}")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        errors.print(interrupted)
        # Flower's server thread would go on waiting for replies.
        os._exit(EXIT_INTERRUPTED)


def escape(text: str) -> str:
    """Keep rich from reading brackets as markup."""
    return text.replace("[", r"\[")
