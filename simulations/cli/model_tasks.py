"""What is asked of a model file: inspection, repair, measurement. `model_requests` reads it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field
from torch import Tensor, nn

from fl_defense.inspections import Inspection, TriggerSearch
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.files import (
    PROGRAM_SUFFIX,
    export_deployed,
    read_weights,
    write_weights,
)
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.repairer import VERIFYING
from fl_defense.rounds.verdict import describe, exceeds, fitting, judge
from fl_defense.sanitizers import (
    ContractError,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
)
from fl_defense.sanitizers.apply import check_sanitizer, idle_defenses
from simulations.attack.backdoor import Backdoor
from simulations.cli.model_loading import load_network, notes_on
from simulations.data import ImageSource, load_data
from simulations.measurement.evaluation import Evaluation
from simulations.measurement.plots import plot_found
from simulations.metrics import Metric
from simulations.models.base import Architecture
from simulations.scenario.devices import pick_device
from simulations.scenario.errors import ConfigError
from simulations.scenario.parts import Part
from simulations.scenario.readers import CONFIG
from simulations.scenario.tables import (
    BACKDOORS,
    DATA,
    DEFENSE,
    INSPECTION,
    MEASURED,
    MODEL,
    VERIFICATION,
)


class ModelRequest(BaseModel):
    """What a model file holds."""

    model_config = CONFIG
    model: Annotated[Architecture, MODEL]
    """The network."""
    input_shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: int = Field(ge=2)
    """Number of classes."""
    pixels: Annotated[Pixels, Part(Pixels)] = Pixels()
    """What the network's inputs were normalised with."""
    inspect_at: str | None = None
    """Submodule after which defenses and inspections cut the network; None: the default cut."""

    def read(self, model_file: Path, device: str) -> tuple[nn.Module, ModelSpec]:
        """Return the model in the file, in eval mode, and its structure.

        Raises:
            ConfigError: if the model cannot be built, or does not fit the input shape or classes.
            ModelFileError: if the file cannot be used.
        """
        try:
            spec = ModelSpec(
                build=lambda: self.model.build(self.input_shape, self.classes),
                input_shape=self.input_shape,
                num_classes=self.classes,
                pixels=self.pixels,
                inspect_at=self.inspect_at,
            )
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        return load_network(spec, model_file, device), spec

    def _introduction(self, model_file: Path) -> dict[str, Any]:
        # Nothing can be told from the weights if this is wrong: who reads it may see it.
        normalisation = {name: list(value) for name, value in asdict(self.pixels).items()}
        return {"model": str(model_file), "normalised_by": normalisation}


class InspectRequest(ModelRequest):
    """What `inspect` needs to know beside the file."""

    inspection: Annotated[Inspection, INSPECTION] = TriggerSearch()
    """How the model is inspected."""

    def inspect(
        self, model_file: Path, *, picture: Path | None, seed: int, device: str
    ) -> dict[str, Any]:
        """Ask without data whether the model is backdoored, and return what there is to say.

        Raises:
            ConfigError: if the model cannot be cut, or the picture cannot be written.
            ModelFileError: if the file cannot be used.
        """
        model, spec = self.read(model_file, device)
        try:
            found = self.inspection.inspect(model, spec, seed=seed)
        except ValueError as error:
            raise ConfigError([f"model: {error}"]) from error
        if picture is not None:
            try:
                plot_found(found, spec.input_shape, picture, title=model_file.name)
            except (OSError, ValueError) as error:
                raise ConfigError([f"--picture: {picture}: cannot be written ({error})"]) from error
        bar, clear = (f(model, spec) for f in (self.inspection.bar_for, self.inspection.clear_for))
        verdict, notes = "not judged", notes_on(model, spec, device)
        blind = self.inspection.blind_to(model, spec)
        if blind is not None:
            notes.append(blind)
        if bar is not None and exceeds(found, bar) and notes in ([], [blind]):
            verdict = "suspected"
        elif bar is not None and not notes:
            clear = bar if clear is None else clear
            if found.anomaly <= clear:
                verdict = "nothing found"
            else:
                notes.append(f"more than in clean models, which lie below {clear:g}")
        # Tensors are told as lists; of the dummies, which are features, nobody can make anything.
        fields = {name: value for name, value in vars(found).items() if name != "dummies"}
        judged = {"verdict": verdict, "reason": describe(found), "bar": bar}
        return (
            self._introduction(model_file)
            | judged
            | {
                name: value.tolist() if isinstance(value, Tensor) else value
                for name, value in fields.items()
            }
            | {"notes": notes}
        )


class RepairRequest(ModelRequest):
    """What `repair` needs to know beside the file."""

    defense: Annotated[Sanitizer, DEFENSE]
    """The sanitizer, or a list of them."""
    verify: Annotated[Inspection | None, VERIFICATION] = TriggerSearch()
    """How the repair is verified; null: it is not."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Do-no-harm gate: least agreement of the model before and after on surrogate images; null:
    0.5, and 0.8 for a network without BatchNorm statistics."""

    def repair(self, model_file: Path, out: Path, *, seed: int, device: str) -> dict[str, Any]:
        """Read a model file, write the repaired one, and return what there is to say about it.

        Raises:
            ConfigError: if the defense refuses the model, the model cannot be built or does not fit
                the input shape, or a file of that kind cannot hold what the defense makes.
            ModelFileError: if a file cannot be used.
        """
        if out.suffix != PROGRAM_SUFFIX and self.defense.purifies:
            raise _cannot_hold_purifier(out)
        suspect, spec = self.read(model_file, device)
        result, notes = _sanitize(self.defense, suspect, spec, seed)
        place = pick_device(device)
        gate = DoNoHarmGate(spec, suspect, self.min_agreement, seed=seed, device=place)
        deployed = result.deployed(spec)
        agreement = gate.agreement(DeployedModel(suspect, spec.pixels), deployed)
        harm = gate.fault(deployed) or gate.refusal(agreement)
        if harm is None:
            judged = self._judge(spec, suspect, result.model, seed)
        else:
            judged = {"verdict": "not repaired", "reason": f"it does harm: {harm}"}
        if out.suffix == PROGRAM_SUFFIX:
            export_deployed(out, deployed, self.input_shape)
        elif result.purify is not None:
            raise _cannot_hold_purifier(out)
        else:
            write_weights(out, result.model, like=read_weights(model_file))
        return self._introduction(model_file) | {
            "repaired": str(out),
            "defense": repr(self.defense),
            **judged,
            "seconds": result.seconds,
            "agreement": agreement,
            "details": dict(result.details),
            "notes": [*notes_on(suspect, spec, device), *notes],
        }

    def _judge(
        self, spec: ModelSpec, suspect: nn.Module, repaired: nn.Module, seed: int
    ) -> dict[str, Any]:
        """Return whether the repair worked, and why; of unchanged weights there is no verdict."""
        verify = fitting(self.verify, suspect, spec)
        if verify is None or not self.defense.changes_models:
            return {"verdict": "not verified"}
        # Another seed than the repair's: scenes that it has not been fitted to.
        verdict = judge(verify, spec, suspect, repaired, seed=seed + VERIFYING)
        return {"verdict": verdict.word, "reason": verdict.reason}


class EvaluateRequest(BaseModel):
    """What `evaluate` needs to know beside the file."""

    model_config = CONFIG
    model: Annotated[Architecture, MODEL]
    """The network."""
    data: Annotated[ImageSource, DATA]
    """Whose test images are used."""
    backdoors: Annotated[tuple[Backdoor, ...], BACKDOORS] = Field(default=(), alias="backdoor")
    """Triggers and their targets; without any, accuracy alone is measured."""
    metrics: Annotated[tuple[Metric, ...], MEASURED] = ()
    """What is measured beside the standard metrics."""

    def evaluate(self, model_file: Path, *, device: str) -> dict[str, Any]:
        """Read a model file and return its rates on the test images.

        Raises:
            ConfigError: if the data cannot be had, or the parts do not fit each other.
            ModelFileError: if the file cannot be used.
        """
        try:
            shape, num_classes = self.data.input_shape, self.data.num_classes
            faults = [
                f"backdoor.{name}: {message}"
                for backdoor in self.backdoors
                for name, message in backdoor.misfits(shape, num_classes)
            ]
            spec = ModelSpec(
                build=lambda: self.model.build(shape, num_classes),
                input_shape=shape,
                num_classes=num_classes,
                pixels=self.data.pixels,
            )
            images = load_data(self.data)
        except ValueError as error:
            raise ConfigError([f"data: {error}"]) from error
        if faults:
            raise ConfigError(faults)
        network = load_network(spec, model_file, device)
        deployed, labels = DeployedModel(network, self.data.pixels), images.test_labels
        report = {"model": str(model_file), "images": len(labels)}
        try:
            evaluation = Evaluation(
                images, self.backdoors, num_classes, pick_device(device), self.metrics
            )
            measured = evaluation.measure(deployed)
        except ValueError as error:
            raise ConfigError([f"backdoor: {error}"]) from error
        report |= measured.rates
        report["notes"] = notes_on(network, spec, device)
        several = len(self.backdoors) > 1
        return report | ({"by_backdoor": measured.by_backdoor} if several else {})


def _sanitize(
    sanitizer: Sanitizer, suspect: nn.Module, spec: ModelSpec, seed: int
) -> tuple[Sanitized, list[str]]:
    """Return the result, and what the defense warned of."""
    with idle_defenses() as idle:
        try:
            check_sanitizer(sanitizer, suspect, spec)
            result = apply_sanitizer(sanitizer, suspect, spec, seed=seed)
        except (ValueError, ContractError) as error:
            raise ConfigError([f"defense: {error}"]) from error
    return result, idle


def _cannot_hold_purifier(out: Path) -> ConfigError:
    return ConfigError(
        [
            f"--out: the defense purifies images, which {out.suffix} cannot hold; "
            f"name a {PROGRAM_SUFFIX} file"
        ]
    )
