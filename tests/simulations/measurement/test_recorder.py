"""What a run leaves behind: every file, read as a user would."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.records import RoundOutcome, RoundRecord
from fl_defense.sanitizers import DeepCleanse, NoDefense
from simulations.aggregators import Bulyan
from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.triggers.blended import Blended
from simulations.data import Digits, Dirichlet
from simulations.engines import InProcessEngine
from simulations.engines.in_process import InProcessGrid
from simulations.federation import client_app as client
from simulations.federation import server
from simulations.federation.deterministic_grid import OrderedGrid
from simulations.federation.run import run_scenario
from simulations.federation.server import RunResult
from simulations.measurement import recorder
from simulations.measurement.confusion import Confusion
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.recorder import FederationError, Recorder
from simulations.measurement.results_folder import ResultsFolder, read_rounds
from simulations.measurement.summary import KEYS, summarize
from simulations.metrics import columns
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training
from tests.quick import DEFENSE, SEARCH

SCENARIO = Scenario(
    name="small",
    rounds=3,
    data=Digits(max_train=160, max_test=80),
    model=SmallCNN(width=4),
    clients=Clients(count=4),
    training=Training(batch_size=16),
    attack=BadNets(malicious=(1,), first_round=2),
    defense=DEFENSE,
    repair=Repair(min_agreement=0, verify=SEARCH),
    engine=InProcessEngine(),
)

ONE_IMAGE = Digits(max_train=160, max_test=1)


def measured(**facts: Any) -> MeasuredRound:
    return MeasuredRound(record=RoundRecord(**facts))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_scenario(SCENARIO, tmp_path_factory.mktemp("run") / "results")


def test_the_folder_holds_every_file(run: RunResult) -> None:
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "confusion.json", "curves.png", "model.safetensors", "rounds.jsonl", "scenario.yaml",
        "summary.json",
    ]  # fmt: skip


def test_every_key_of_the_summary_is_explained(run: RunResult) -> None:
    written = json.loads((run.folder / "summary.json").read_text())
    assert list(written) == list(KEYS)


def test_answers_by_class_are_kept_of_the_last_round(run: RunResult) -> None:
    found = Confusion.read(run.folder / "confusion.json")
    assert found is not None
    assert found.round == 3
    clean = torch.tensor(found.after["clean"])
    accuracy = run.records[-1].rate("released", "accuracy")
    assert (clean.diag().sum() / clean.sum()).item() == pytest.approx(accuracy)
    for by_kind in (found.before, found.after):
        assert torch.equal(torch.tensor(by_kind["triggered"]).sum(1), clean.sum(1))


def test_rounds_are_measured_before_and_after_the_repair(run: RunResult) -> None:
    records = read_rounds(run.folder)
    assert records == run.records
    assert [record.round for record in records] == [0, 1, 2, 3]
    assert [record.malicious for record in records] == [[], [], [1], [1]]
    assert [record.record.sanitized for record in records] == [False, True, True, True]
    for record in records:
        assert list(record.rates) == ["aggregate", "released", "sent"]
        assert all(list(rates) == list(columns()) for rates in record.rates.values())
        assert record.evaluate_seconds > 0
        assert record.rates["sent"] == record.rates["released"]
    assert records[0].rates["released"] == records[0].rates["aggregate"]
    assert records[2].record.details["forward_images"] > 0
    assert records[1].record.train_seconds > 0
    assert records[1].record.sanitize_seconds > 0


def test_clients_that_train_on_the_aggregate_are_sent_it(tmp_path: Path) -> None:
    repair = Repair(min_agreement=0, verify=SEARCH, broadcast="aggregate")
    scenario = SCENARIO.model_copy(update={"repair": repair, "rounds": 2})
    for record in run_scenario(scenario, tmp_path / "out").records:
        assert record.rates["sent"] == record.rates["aggregate"]


def test_some_rounds_are_measured_on_request_and_the_last_is(tmp_path: Path) -> None:
    some = {"evaluate_every": 2, "rounds": 3, "defense": NoDefense()}
    result = run_scenario(SCENARIO.model_copy(update=some), tmp_path / "out")
    assert [bool(record.rates) for record in result.records] == [True, False, True, True]
    last = [record.rate("released", "accuracy") for record in result.records[2:]]
    mean = result.summary["last_three_rounds"]["released"]["accuracy"]
    assert mean == pytest.approx(sum(last) / 2)  # type: ignore[arg-type]


def test_malicious_clients_that_were_not_asked_did_not_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = client.train_client
    asked: dict[int, set[int]] = {}

    def noted(scenario: Scenario, partition_id: int, **kwargs: Any) -> Any:
        asked.setdefault(kwargs["server_round"], set()).add(partition_id)
        return train(scenario, partition_id, **kwargs)

    monkeypatch.setattr(client, "train_client", noted)
    some = {
        "rounds": 6,
        "clients": Clients(count=4, per_round=1),
        "attack": BadNets(malicious=(1, 3)),
        "defense": NoDefense(),
    }
    result = run_scenario(SCENARIO.model_copy(update=some), tmp_path / "out")
    found = [set(record.malicious) for record in result.records[1:]]
    assert found == [asked[number] & {1, 3} for number in range(1, 7)]
    assert not found[0], "the seed must draw an honest client first"
    assert any(found)
    first = next(record.round for record in result.records if record.malicious)
    attacked = [record.rate("released", "accuracy") for record in result.records[first:]]
    assert result.summary["since_attack"]["released"]["accuracy"] == pytest.approx(
        sum(attacked) / len(attacked)
    )  # type: ignore[arg-type]


def test_a_purified_system_is_told_apart_from_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[Path, DeployedModel, Any]] = []
    monkeypatch.setattr(server, "export_deployed", lambda *given: exported.append(given))
    purify = DeepCleanse(
        num_images=32, num_limit_images=16, completion_width=2, completion_steps=2, batch_size=8,
        hole_limits=(1.0,), min_agreement=0,
    )  # fmt: skip
    scenario = SCENARIO.model_copy(update={"defense": purify, "rounds": 1})
    result = run_scenario(scenario, tmp_path / "out")
    initial, last = result.records
    assert "unpurified" not in initial.rates
    # The purifier stays with the server; the weights are the aggregate's.
    assert last.rates["unpurified"] == last.rates["aggregate"] == last.rates["sent"]
    assert last.rates["released"] != last.rates["unpurified"]
    assert result.summary["last_three_rounds"]["unpurified"] == last.rates["unpurified"]
    # The weights alone would still be backdoored: the system is there to be deployed.
    ((path, system, shape),) = exported
    assert (path, shape) == (result.folder / "deployed.pt2", (1, 16, 16))
    images = torch.rand(3, 1, 16, 16)
    without = DeployedModel(system.model, system.pixels)
    assert system(images).shape == (3, 10)
    assert not torch.equal(system(images), without(images))


def test_every_backdoor_is_told_by_itself(run: RunResult) -> None:
    for record in run.records:
        (backdoor,) = record.backdoors
        assert {stage: dict(rates) for stage, rates in backdoor.items()} == {
            stage: {name: rate for name, rate in rates.items() if name != "accuracy"}
            for stage, rates in record.rates.items()
        }
    (means,) = run.summary["backdoors"]
    last = run.summary["last_three_rounds"]["released"]
    assert means["place"] == "backdoor"
    assert means["rates"]["released"]["robust_accuracy"] == last["robust_accuracy"]


def test_a_source_specific_backdoor_is_measured_on_its_sources(tmp_path: Path) -> None:
    backdoor = Backdoor(target=0, sources=(3, 5))
    scenario = SCENARIO.model_copy(update={"backdoors": (backdoor,), "rounds": 1})
    result = run_scenario(scenario, tmp_path / "out")
    (means,) = result.summary["backdoors"]
    assert means["rates"]["released"] == {
        name: rate for name, rate in result.records[-1].rates["released"].items()
        if name != "accuracy"
    }  # fmt: skip
    assert "non_source_accuracy" in means["rates"]["released"]
    assert load_scenario(result.folder / "scenario.yaml") == scenario


def test_several_backdoors_are_summed_up_by_place(tmp_path: Path) -> None:
    backdoors = (Backdoor(), Backdoor(trigger=Blended(), target=1))
    scenario = SCENARIO.model_copy(update={"backdoors": backdoors, "rounds": 1})
    result = run_scenario(scenario, tmp_path / "out")
    means = result.summary["backdoors"]
    assert [each["place"] for each in means] == ["backdoor.0", "backdoor.1"]
    success = [each["rates"]["released"]["attack_success_rate"] for each in means]
    assert result.summary["worst_attack_success_rate"] == max(success)
    assert result.records[-1].rate("released", "attack_success_rate") == pytest.approx(
        sum(success) / 2
    )


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"backdoors": (Backdoor(sources=(7,)),), "partition": Dirichlet(alpha=0.05, min_size=2)},
         r"backdoor.sources: no malicious client has an image of these classes, got \(7,\)"),
        ({"data": ONE_IMAGE, "backdoors": (Backdoor(target=int(ONE_IMAGE.load().test_labels)),)},
         "backdoor: no test image is of a class that the trigger should change"),
    ],
)  # fmt: skip
def test_a_backdoor_that_nobody_could_plant_or_see_is_refused_before_anything_is_written(
    update: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_scenario(SCENARIO.model_copy(update=update), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_saved_scenario_runs_again(run: RunResult) -> None:
    assert load_scenario(run.folder / "scenario.yaml") == SCENARIO
    assert yaml.safe_load((run.folder / "scenario.yaml").read_text())["defense"]["iterations"] == 2


def test_the_saved_model_is_the_released_one(run: RunResult) -> None:
    model = SCENARIO.model_spec().build()
    model.load_state_dict(load_file(run.folder / "model.safetensors"))
    data = Digits(max_train=160, max_test=80).load()
    with torch.no_grad():
        logits = model.eval()(Digits.pixels.normalize(data.test_images.float() / 255))
    found = (logits.argmax(1) == data.test_labels).double().mean().item()
    assert found == pytest.approx(run.records[-1].rate("released", "accuracy"))


def test_the_picture_is_a_picture(run: RunResult) -> None:
    with Image.open(run.folder / "curves.png") as picture:
        assert picture.size[0] > 400
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 10


def test_the_summary_says_what_a_reader_needs(run: RunResult) -> None:
    summary: dict[str, Any] = json.loads((run.folder / "summary.json").read_text())
    last = [record.rate("released", "accuracy") for record in run.records[-3:]]
    assert summary["last_three_rounds"]["released"]["accuracy"] == pytest.approx(sum(last) / 3)  # type: ignore[arg-type]
    attacked = [record.rate("released", "attack_success_rate") for record in run.records[-2:]]
    assert summary["since_attack"]["released"]["attack_success_rate"] == pytest.approx(
        sum(attacked) / 2
    )  # type: ignore[arg-type]
    assert summary["worst_attack_success_rate"] == max(attacked)  # type: ignore[type-var]
    assert summary["malicious"] == [1]
    assert summary["num_repaired"] == 3
    assert summary["seconds"]["total"] >= summary["seconds"]["repair"] > 0
    assert summary["versions"]["torch"]


def test_a_run_without_rates_can_be_summed_up() -> None:
    summary = summarize(SCENARIO, [measured(round=1)], torch.device("cpu"), 1.0)
    assert summary["last_three_rounds"] == {}
    assert summary["worst_attack_success_rate"] is None


def test_a_repair_that_failed_was_not_refused() -> None:
    records = [
        measured(round=1, sanitized=True, details={"failure": "ValueError: no"}),
        measured(round=2, sanitized=True, details={"refused": "agreement 0.1 is below 0.5"}),
        measured(round=3, sanitized=True, details={"failure": "ValueError: no"}),
        measured(round=4, sanitized=True, accepted=True),
    ]
    summary = summarize(SCENARIO, records, torch.device("cpu"), 1.0)
    assert summary["num_repaired"] == 1
    assert summary["num_refused"] == 1
    assert summary["num_failed_repairs"] == 2


@pytest.mark.parametrize(
    ("device", "sanitized", "num_given_back"),
    [("cuda", True, 1), ("cuda", False, 0), ("cpu", True, 0)],
)
def test_memory_of_a_repair_is_given_back_to_the_clients_on_the_same_gpu(
    device: str,
    sanitized: bool,
    num_given_back: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(device))
    monkeypatch.setattr(recorder, "pick_device", lambda _: torch.device(device))
    observe = Recorder(
        SCENARIO,
        SCENARIO.data.load(),
        ResultsFolder.begin(tmp_path / "out", SCENARIO),
        lambda record: None,
        OrderedGrid(InProcessGrid(client.build_client_app(SCENARIO), 4), 4, seed=0),
    )
    record = RoundRecord(round=1, num_replies=4, sanitized=sanitized)
    observe(RoundOutcome(record=record, aggregate=None, released=None, sent=None))
    assert len(given_back) == num_given_back


def test_a_folder_that_holds_a_run_is_refused(run: RunResult) -> None:
    before = (run.folder / "rounds.jsonl").read_text()
    with pytest.raises(ConfigError, match="already holds a run; name another folder with --out"):
        run_scenario(SCENARIO, run.folder)
    assert (run.folder / "rounds.jsonl").read_text() == before


def test_data_that_cannot_be_dealt_out_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    impossible = SCENARIO.model_copy(update={"partition": Dirichlet(alpha=0.001, min_size=40)})
    with pytest.raises(ConfigError, match=r"partition: .*raise alpha or lower min-size"):
        run_scenario(impossible, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clients_that_fail_are_counted_and_the_round_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = client.train_client

    def sometimes(scenario: Scenario, partition_id: int, **kwargs: Any) -> Any:
        if partition_id == 2:
            raise MemoryError("too big")
        arrays, metrics = train(scenario, partition_id, **kwargs)
        if partition_id == 3:
            arrays = {name: value * float("nan") for name, value in arrays.items()}
        return arrays, metrics

    monkeypatch.setattr(client, "train_client", sometimes)
    result = run_scenario(SCENARIO, tmp_path / "out")
    record = result.records[1].record
    assert (record.num_replies, record.num_failures, record.num_rejected) == (2, 1, 1)
    assert [rejection["client"] for rejection in record.details["rejections"]] == [3]
    assert result.summary["num_failures"] == 3


def test_without_any_client_the_run_fails_and_keeps_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = client.train_client

    def until_round_two(scenario: Scenario, partition_id: int, **kwargs: Any) -> Any:
        if kwargs["server_round"] == 2:
            raise MemoryError("too big")
        return train(scenario, partition_id, **kwargs)

    monkeypatch.setattr(client, "train_client", until_round_two)
    with pytest.raises(FederationError, match=r"round 2: no client is left \(4 failed"):
        run_scenario(SCENARIO, tmp_path / "out")
    records = read_rounds(tmp_path / "out")
    assert [record.record.num_replies for record in records] == [0, 4, 0]


def test_a_run_that_aggregated_nothing_fails_and_keeps_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = client.train_client

    def without_one(scenario: Scenario, partition_id: int, **kwargs: Any) -> Any:
        if partition_id == 0 and kwargs["server_round"] in failing:
            raise MemoryError("too big")
        return train(scenario, partition_id, **kwargs)

    monkeypatch.setattr(client, "train_client", without_one)
    scenario = SCENARIO.model_copy(
        update={"rounds": 2, "clients": Clients(count=7), "aggregator": Bulyan(num_malicious=1)}
    )
    failing = (1, 2)
    with pytest.raises(FederationError, match=r"no round gave a model: Bulyan aggregated none"):
        run_scenario(scenario, tmp_path / "out")
    records = read_rounds(tmp_path / "out")
    assert [record.record.num_replies for record in records] == [0, 6, 6]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    failing = (2,)
    result = run_scenario(scenario, tmp_path / "once")
    assert load_file(result.folder / "model.safetensors")
