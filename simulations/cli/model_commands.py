"""The commands on model files: fl-defense inspect | repair | evaluate; no federation is needed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.cli.options import with_shared_options
from simulations.cli.outputs import Force, check_output
from simulations.cli.terminal import EXIT_SUSPECT, clear_errors, console
from simulations.cli.trust import Trust
from simulations.cli.waiting import waiting

app = typer.Typer()


ModelFile = Annotated[Path, typer.Argument(help="Weights: .safetensors, .pt or .pth.")]


Model = Annotated[
    str | None,
    typer.Option(help="Network: a name, a mapping as in a scenario, or package.module:factory."),
]


InputShape = Annotated[str | None, typer.Option(help="Channels, height, width: 3,32,32.")]


Classes = Annotated[int | None, typer.Option(help="Number of classes.")]


Mean = Annotated[
    str | None,
    typer.Option(help="Mean that inputs are normalised with: 0.5, the default, or 0.5,0.4,0.4."),
]


Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation, likewise; default: 0.25. None: --mean 0 --std 1."),
]


InspectAt = Annotated[str | None, typer.Option(help="Submodule after which the classifier begins.")]


Seed = Annotated[int, typer.Option(help="Decides everything that is drawn.")]


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Dotted field and value, e.g. model.width=16."),
]


Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Form:
    """What `inspect` and `repair` are told of a model file, and how they work."""

    model: Model = None
    input_shape: InputShape = None
    classes: Classes = None
    mean: Mean = None
    std: Std = None
    inspect_at: InspectAt = None
    settings: Settings = None
    seed: Seed = 0
    device: Device = "auto"
    trust: Trust = False
    force: Force = False
    as_json: AsJson = False

    def given(self) -> dict[str, Any]:
        """Return what is said of the file, by the names of a request's fields."""
        from simulations.cli.model_requests import read_part

        return {
            "model": read_part(self.model),
            "input-shape": _numbers(self.input_shape),
            "classes": self.classes,
            "inspect-at": self.inspect_at,
        }

    def changes(self) -> list[str]:
        """Return mean and standard deviation as settings, and then the settings."""
        pixels = (("mean", self.mean), ("std", self.std))
        normalisation = [
            f"pixels.{name}={json.dumps(_numbers(text))}" for name, text in pixels if text
        ]
        return [*normalisation, *(self.settings or ())]


@app.command()
@with_shared_options
def inspect(
    model_file: ModelFile,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw what was found, a PNG.")
    ] = None,
    inspection: Annotated[
        str, typer.Option(help="trigger-search, freeeagle, or a mapping.")
    ] = "trigger-search",
    *,
    form: Form,
) -> None:
    """Ask without data whether a model is backdoored, and towards which class.

    The verdict compares what was found with the bar of such models. Exit code: 0, nothing found or
    not judged; 3, suspected; 2, bad input. In a results folder the scenario beside the file says
    what is not given.
    """
    with clear_errors():
        from simulations.cli.model_requests import read_part, read_request
        from simulations.cli.model_tasks import InspectRequest
        from simulations.extras import missing
        from simulations.measurement.plots import PICTURE_SUFFIXES
        from simulations.scenario import ConfigError

        if picture is not None and (faults := missing(["matplotlib"])):
            raise ConfigError(faults)
        check_output("--picture", picture, force=form.force, suffixes=PICTURE_SUFFIXES)
        given = form.given()
        given["inspection"] = read_part(inspection)
        request = read_request(InspectRequest, model_file, given, form.changes(), trust=form.trust)
        with waiting("inspecting"):
            report = request.inspect(
                model_file, picture=picture, seed=form.seed, device=form.device
            )
        if not form.as_json:
            for matrix in ("posteriors", "patch"):
                report.pop(matrix, None)
        _print(report, form.as_json)
        if report["verdict"] == "suspected":
            raise typer.Exit(EXIT_SUSPECT)


@app.command()
@with_shared_options
def repair(
    model_file: ModelFile,
    defense: Annotated[
        list[str], typer.Option(help="Name or mapping; several run in the order given.")
    ],
    out: Annotated[Path, typer.Option(help="Repaired weights; .pt2: the model as deployed.")],
    preset: Annotated[str | None, typer.Option(help="Preset of the defense.")] = None,
    *,
    form: Form,
) -> None:
    """Repair a model file without data: weights in, repaired weights out.

    Then the repaired model is searched for what is left. Exit code: 0, repaired, nothing found or
    not verified; 3, not repaired, which is written all the same; 2, bad input.
    In a results folder the scenario beside the file says what is not given.
    """
    with clear_errors():
        from fl_defense.model.files import PROGRAM_SUFFIX, SUFFIXES
        from simulations.cli.model_requests import read_part, read_request
        from simulations.cli.model_tasks import RepairRequest
        from simulations.scenario import ConfigError

        kinds = (*SUFFIXES, PROGRAM_SUFFIX)
        check_output("--out", out, force=form.force, suffixes=kinds, inputs=[model_file])
        parts = [read_part(text) for text in defense]
        if preset is not None:
            if len(parts) > 1 or not isinstance(parts[0], dict):
                raise ConfigError(
                    ["--preset: is of one defense, got several; "
                     "write --defense '{name: ..., preset: ...}' for each"]
                )  # fmt: skip
            parts = [{**parts[0], "preset": preset}]
        given = form.given()
        given["defense"] = parts if len(parts) > 1 else parts[0]
        request = read_request(RepairRequest, model_file, given, form.changes(), trust=form.trust)
        with waiting("repairing"):
            report = request.repair(model_file, out, seed=form.seed, device=form.device)
        _print(report, form.as_json)
        if report["verdict"] == "not repaired":
            raise typer.Exit(EXIT_SUSPECT)


@app.command()
def evaluate(
    model_file: ModelFile,
    model: Model = None,
    data: Annotated[
        str | None, typer.Option(help="Whose test images: a name or a mapping.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="Name or mapping; without it accuracy alone is measured.")
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="The attacker's class, with --trigger; default: 0.")
    ] = None,
    settings: Settings = None,
    device: Device = "auto",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model file: accuracy, attack success rate and robust accuracy.

    In a results folder the scenario beside the file says what is not given.
    """
    with clear_errors():
        from simulations.cli.model_requests import read_part, read_request
        from simulations.cli.model_tasks import EvaluateRequest
        from simulations.scenario import ConfigError

        if target is not None and trigger is None:
            raise ConfigError(
                [f"--target: needs --trigger, got {target} alone; name the trigger, or change the "
                 f"scenario's with --set backdoor.target={target}"]
            )  # fmt: skip
        backdoor = {"trigger": read_part(trigger), "target": target or 0} if trigger else None
        given = {"model": read_part(model), "data": read_part(data), "backdoor": backdoor}
        request = read_request(EvaluateRequest, model_file, given, settings or (), trust=trust)
        with waiting("measuring"):
            report = request.evaluate(model_file, device=device)
        _print(report, as_json)


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=2))  # noqa: T201 - plain, for a pipe
        return
    for name, value in report.items():
        if value not in ([], {}):
            console.print(f"{name.replace('_', ' ') + ':':21}{_plain(value)}", markup=False)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")
