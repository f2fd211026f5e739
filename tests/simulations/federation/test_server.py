"""What the server leaves when the deployed system cannot be written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fl_defense.model.files import ModelFileError, write_weights
from fl_defense.sanitizers import DeepCleanse
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation import server
from simulations.federation.preflight import check_scenario
from simulations.federation.run import resume_run, run_scenario
from simulations.federation.server import initial_model, start_model
from simulations.measurement import results_folder as results
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.scenario import Clients, Repair, Scenario
from tests.quick import SEARCH

SCENARIO = Scenario(
    name="purified",
    rounds=1,
    data=Digits(max_train=80, max_test=40),
    model=SmallCNN(width=4),
    clients=Clients(count=2),
    defense=DeepCleanse(
        num_images=32, num_limit_images=16, completion_width=2, completion_steps=2, batch_size=8,
        hole_limits=(1.0,), min_agreement=0,
    ),
    repair=Repair(min_agreement=0, verify=SEARCH),
    engine=InProcessEngine(),
)  # fmt: skip


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(server.logger, "warning", lambda text, *values: found.append(text % values))
    return found


def test_an_export_that_fails_leaves_the_results_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    out = tmp_path / "out"

    def fails(path: Path, *_: object) -> None:
        assert (out / "summary.json").exists()
        raise ModelFileError(f"{path}: the model cannot be exported (no reason)")

    monkeypatch.setattr(server, "export_deployed", fails)
    result = run_scenario(SCENARIO, out)
    assert result.summary["scenario"] == "purified"
    assert load_file(out / "model.safetensors")
    assert warnings == [
        f"{out / 'deployed.pt2'}: the model cannot be exported (no reason); model.safetensors alone, "
        "without the purifier, is not repaired"
    ]


def test_a_purifier_lost_between_the_last_round_and_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(results, "plot_curves", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_scenario(SCENARIO, out)
    resume_run(out)
    assert (out / "summary.json").exists()
    assert not (out / "deployed.pt2").exists()
    (warning,) = warnings
    assert warning.startswith(f"{out / 'deployed.pt2'}: not written, for the run was interrupted")


def test_without_a_purifier_nothing_is_said(tmp_path: Path, warnings: list[str]) -> None:
    scenario = SCENARIO.model_copy(update={"repair": Repair(min_agreement=1.0, verify=SEARCH)})
    result = run_scenario(scenario, tmp_path / "out")
    assert result.records[-1].record.accepted is False
    assert not (tmp_path / "out" / "deployed.pt2").exists()
    assert [warning for warning in warnings if "deployed.pt2" in warning] == []


@pytest.mark.parametrize(("buffers", "averaged"), [("mean", True), ("inner", False)])
def test_the_scenario_says_who_averages_statistics(buffers: Any, averaged: bool) -> None:
    scenario = SCENARIO.model_copy(update={"repair": Repair(buffers=buffers, verify=SEARCH)})
    strategy = server.build_strategy(scenario, lambda _: None, None)
    assert any("running_mean" in name for name in strategy._aggregation.unified_buffers) is averaged


def test_a_federation_may_start_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    scenario = SCENARIO.model_copy(update={"initial_model": str(path)})
    model = initial_model(scenario.model_spec(), 7)
    write_weights(path, model, like=model.state_dict())
    started = start_model(scenario).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items())
    drawn = start_model(SCENARIO).state_dict()
    assert not all(torch.equal(value, drawn[name]) for name, value in started.items())


def test_a_file_that_is_no_start_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scenario = SCENARIO.model_copy(update={"initial_model": str(tmp_path / "no.safetensors")})
    with pytest.raises(ConfigError, match=r"initial-model: .*no\.safetensors: no such file"):
        check_scenario(scenario)
