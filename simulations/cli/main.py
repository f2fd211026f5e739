"""The command line: fl-defense run | show | calibrate, and what the other files here add."""

import math
import os
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_defense import __version__
from simulations import shipped
from simulations.cli import model_commands, run_commands, start_commands
from simulations.cli.doubts import tell_doubts
from simulations.cli.help import Commands
from simulations.cli.terminal import clear_errors, console, escape
from simulations.cli.trust import Trust
from simulations.cli.waiting import Rounds, waiting

# Before torch is imported: idle OpenMP threads must sleep, not spin. Spinning ones make a run a
# hundred times slower as soon as anything else computes on the same cores, Ray's workers included.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


app = typer.Typer(
    name="fl-defense",
    help="Repair backdoored models in federated learning, without data.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(model_commands.app)
app.add_typer(run_commands.app)
app.add_typer(start_commands.app)


INTERRUPTED = (
    "interrupted; finished rounds are in the results folder, and "
    "`fl-defense run --resume FOLDER` goes on with it"
)


def _print_version(asked: bool) -> None:
    if asked:
        console.print(f"fl-defense {__version__}")
        raise typer.Exit


def _names_of_scenarios(incomplete: str) -> list[str]:
    """Return what the shell may complete an argument to."""
    return [name for name in shipped.scenarios() if name.startswith(incomplete)]


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Repair backdoored models in federated learning, without data."""


@app.command()
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(
            help="A YAML file, or a scenario that ships: fl-defense list scenarios.",
            autocompletion=_names_of_scenarios,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Dotted field and value, e.g. seed=3 or defense.name=none."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="processes, ray or in-process; short for --set engine.name=..."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder; default: results/NAME/DATE-TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Results folder of an interrupted run, to be finished.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the summary alone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try data, model and defense; run and write nothing.")
    ] = False,
) -> None:
    """Run a federation under attack and write a results folder."""
    with clear_errors(INTERRUPTED):
        # Imported here: `--help` should not wait for torch.
        from simulations.federation.preflight import check_scenario
        from simulations.federation.run import resume_run, run_scenario
        from simulations.measurement.measured_round import MeasuredRound
        from simulations.measurement.results_folder import ResultsFolder
        from simulations.measurement.round_table import header, row
        from simulations.scenario import ConfigError
        from simulations.scenario.load import find_scenario, load_scenario

        if (scenario is None) == (resume is None) or (resume and (overrides or engine or out)):
            raise ConfigError(["run: takes a scenario and its options, or --resume FOLDER alone"])
        if resume is not None:
            loaded = load_scenario(resume / "scenario.yaml")
            go = partial(resume_run, resume)
        else:
            assert scenario is not None
            settings = [*(overrides or []), *([f"engine.name={engine}"] if engine else [])]
            loaded = load_scenario(find_scenario(scenario), settings)
            date = datetime.now().strftime("%Y%m%d-%H%M%S")
            folder = out or Path("results") / loaded.name / date
            go = partial(run_scenario, loaded, folder)
        if dry_run:
            with waiting("trying the scenario"):
                check_scenario(loaded)
            _introduce(loaded)
            console.print("nothing was run: data, model, attack and defense fit each other")
            return
        if resume is None:
            # Now, and not under the head of a table.
            ResultsFolder.check_free(folder)
        if quiet:
            result = go()
        else:
            _introduce(loaded)
            console.print(f"[bold]{header(loaded.metrics)}[/bold]")
            with waiting("reading the data and starting the clients") as now:
                rounds = Rounds(loaded.rounds)

                def tell(measured: MeasuredRound) -> None:
                    console.print(escape(row(measured, loaded.metrics)))
                    now.begin(*rounds.after(measured.round))

                result = go(tell)
        _print_summary(result.summary, result.folder)


@app.command()
def show(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders of runs, or folders above them.")
    ],
) -> None:
    """Print the rounds of results folders, and the summaries of runs that are finished."""
    with clear_errors():
        from simulations.measurement.finished_runs import folders_of_runs
        from simulations.measurement.reading import as_written, read_json
        from simulations.measurement.results_folder import read_rounds
        from simulations.measurement.round_table import header, metrics_of, row

        runs = [(folder, read_rounds(folder)) for folder in folders_of_runs(folders)]
        for folder, rounds in runs:
            if len(runs) > 1:
                console.rule(escape(str(folder)), align="left")
            with as_written(folder):
                metrics = metrics_of(rounds)
                console.print(f"[bold]{header(metrics)}[/bold]")
                for measured in rounds:
                    console.print(escape(row(measured, metrics)))
            if (folder / "summary.json").exists():
                with as_written(folder):
                    _print_summary(read_json(folder / "summary.json"), folder)
            else:
                console.print(f"not finished; fl-defense run --resume {escape(str(folder))}")
        tell_doubts(folders)


@app.command()
def calibrate(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders of runs without attackers.")
    ],
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of rounds without attackers that may be suspected.")
    ] = 0.05,
    trust: Trust = False,
) -> None:
    """Find the bound of suspicion from inspected runs of a scenario without attackers."""
    with clear_errors():
        from statistics import median

        from simulations.measurement.calibration import calibrate
        from simulations.measurement.reading import as_written

        with waiting("reading the runs"), as_written(*folders):
            found = calibrate(folders, false_positive_rate, trust=trust)
        console.print(
            f"{len(found.anomalies)} rounds of {len(folders)} runs without attackers: anomaly "
            f"{found.anomalies[0]:.2f} to {found.anomalies[-1]:.2f}, "
            f"median {median(found.anomalies):.2f}"
        )
        # Rounded up: rounded down, the round it comes from would raise the alarm.
        bound = max(1, math.ceil(1000 * found.bound)) / 1000
        console.print(f"--set repair.schedule.on-suspicion={bound:.3f}")
        tell_doubts(folders)


def _introduce(scenario: Any) -> None:
    described = scenario.model_dump(mode="json", by_alias=True)
    names = ", ".join(
        f"{part} {_names(described[part])}"
        for part in ("data", "partition", "model", "aggregator", "attack", "defense", "engine")
    )
    malicious = ", ".join(map(str, scenario.malicious_clients)) or "none"
    console.print(f"[bold]{scenario.name}[/bold], seed {scenario.seed}: {names}")
    console.print(
        f"{scenario.clients.count} clients, {scenario.num_replies} a round, malicious: {malicious}"
    )


def _names(described: Any) -> str:
    if isinstance(described, list):
        return " then ".join(part["name"] for part in described)
    return str(described["name"])


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    seconds, means = summary["seconds"], summary["last_three_rounds"]
    count = min(3, summary["rounds"])
    which = "the only round" if count == 1 else f"last {('two', 'three')[count - 2]} rounds"
    before = f" (before repair: {_rates(means['aggregate'])})" if "aggregate" in means else ""
    console.print(f"{which}: {_rates(means.get('released', {}))}{before}")
    if "unpurified" in means:
        console.print(f"the model without its purifier: {_rates(means['unpurified'])}")
    backdoors = [(each["place"], each["rates"]["released"]) for each in summary["backdoors"]]
    if len(backdoors) > 1:
        for place, rates in backdoors:
            console.print(f"  {place}: {_rates(rates)}")
    counts = {name: summary[f"num_{name}"] for name in ("refused", "rejected", "failures")}
    crashed = summary["num_failed_repairs"]
    if crashed or any(counts.values()):
        console.print(
            f"repairs refused: {counts['refused']}, "
            + (f"repairs failed: {crashed}, " if crashed else "")
            + f"replies rejected: {counts['rejected']}, clients failed: {counts['failures']}"
        )
    console.print(
        f"{seconds['total']:.0f} s: training {seconds['training']:.0f}, repair "
        f"{seconds['repair']:.0f}, evaluation {seconds['evaluation']:.0f}; {summary['device']}"
    )
    console.print(f"results: {escape(str(folder))}")


def _rates(rates: dict[str, float]) -> str:
    from simulations.metrics import metrics_named

    words = [f"{metric.title} {rates[name]:.3f}" for name, metric in metrics_named(rates).items()]
    return ", ".join(words) or "not measured"
