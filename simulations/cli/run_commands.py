"""The commands on many runs: fl-defense sweep | compare | report."""

import os
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from fl_defense.progress import spoken
from simulations.cli.doubts import tell_doubts
from simulations.cli.outputs import Force, check_output
from simulations.cli.terminal import EXIT_FAILED, clear_errors, console, errors, escape
from simulations.cli.trust import Trust
from simulations.cli.waiting import waiting

app = typer.Typer()

Folders = Annotated[list[Path], typer.Argument(help="Results folders, or folders above them.")]


@app.command()
def compare(
    folders: Folders,
    stage: Annotated[
        str, typer.Option(help="Whose rates: released, sent, aggregate or unpurified.")
    ] = "released",
    form: Annotated[
        str, typer.Option("--format", help="text, markdown, csv, json or latex.")
    ] = "text",
    against: Annotated[
        str | None,
        typer.Option(help="Reference of paired differences, e.g. defense.name=none."),
    ] = None,
    interval: Annotated[
        str, typer.Option(help="t, or bootstrap, which stays in [0, 1]; json has both.")
    ] = "t",
) -> None:
    """Compare finished runs: means over seeds with intervals, differences, the worst attack."""
    with clear_errors():
        from simulations.measurement.comparison_tables import compare
        from simulations.measurement.reading import as_written

        with as_written(*folders):
            table = compare(folders, stage=stage, form=form, against=against, interval=interval)
        print(table)  # noqa: T201 - for a pipe
        tell_doubts(folders)


@app.command()
def sweep(
    plan: Annotated[
        str, typer.Argument(help="A YAML file with scenario, set and grid, or a plan that ships.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of all runs; default: results/sweeps/NAME.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Runs at a time, one thread each; default: all cores.")
    ] = None,
) -> None:
    """Run every combination of a plan that is not finished yet, several at a time."""
    with clear_errors("interrupted; the same command goes on with what is not finished"):
        from simulations.federation.preflight import check_scenario
        from simulations.scenario.load import find_plan
        from simulations.sweep.plan import read_plan
        from simulations.sweep.sweep import Finished, Sweep, check_runs

        file = find_plan(plan)
        runs = read_plan(file)
        at_a_time = cores if cores is not None else os.cpu_count() or 1
        folder = out or Path("results") / "sweeps" / file.stem
        seconds: list[float] = []

        def tell(finished: Finished, num_left: int) -> None:
            seconds.append(finished.seconds)
            seconds_left = fmean(seconds) * num_left / at_a_time
            word = "finished" if finished.error is None else "failed"
            rest = f"; {num_left} left, about {spoken(seconds_left)}" if num_left else ""
            console.print(escape(f"{word} in {finished.seconds:.0f} s: {finished.run.label}{rest}"))
            now.begin(f"{num_left} of {len(left)} runs left", seconds_left)

        sweep = Sweep(runs=runs, out=folder, cores=at_a_time, tell=tell)
        left = sweep.waiting
        with waiting("trying every scenario"):
            check_runs(left, check_scenario)
        console.print(
            f"{len(runs)} runs, {len(runs) - len(left)} of them finished before; "
            f"{at_a_time} at a time"
        )
        with waiting(f"{len(left)} of {len(left)} runs left") as now:
            failed = sweep.go()
        for each in failed:
            errors.print(f"[red]failed:[/red] {escape(f'{each.run.label}: {each.error}')}")
        console.print(f"results: {escape(str(folder))}; fl-defense compare {escape(str(folder))}")
        if failed:
            raise typer.Exit(EXIT_FAILED)


@app.command()
def report(
    folders: Folders,
    out: Annotated[Path, typer.Option(help="The page, one file with all in it.")] = Path(
        "report.html"
    ),
    force: Force = False,
    trust: Trust = False,
) -> None:
    """Write one HTML page about finished runs: curves, clients, patterns, seconds, settings."""
    with clear_errors():
        from simulations.report.page import write_report

        check_output("--out", out, force=force, suffixes=(".html", ".htm"))
        with waiting("writing the page"):
            count = write_report(folders, out, trust=trust)
        console.print(f"{count} run{'s' if count != 1 else ''}: {escape(str(out))}")
        tell_doubts(folders)
