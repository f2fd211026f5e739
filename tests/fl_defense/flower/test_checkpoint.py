"""What a checkpoint keeps, and what is refused."""

import io
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from fl_defense.atomic_write import replace_file
from fl_defense.flower.checkpoint import MAGIC, Carried, Checkpoint, CheckpointFile
from fl_defense.flower.packing import CheckpointError, pack
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.repairer import RepairState
from fl_defense.sanitizers import NoDefense
from fl_defense.seal import Seal

ARRAYS = ArrayRecord({"w": torch.randn(2, 3), "n": torch.tensor(5)})


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(path=tmp_path / "checkpoint", belongs_to="a run")


def keep(file: CheckpointFile, carried: Carried | None = None, *strategies: Any) -> Checkpoint:
    file.write(Checkpoint.take(carried or Carried(round=3, arrays=ARRAYS), strategies))
    return file.read()


def test_what_is_carried_comes_back_to_the_bit(file: CheckpointFile) -> None:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    defense = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "calls": 2}
    carried = keep(
        file, Carried(round=3, arrays=ARRAYS, repair=RepairState(defense=defense))
    ).carried
    assert carried.round == 3
    assert carried.released is None
    assert carried.arrays == ARRAYS
    assert carried.repair.defense is not None
    again = torch.optim.Adam(network.parameters(), 0.1)
    again.load_state_dict(carried.repair.defense["optimizer"])
    kept, found = optimizer.state_dict()["state"], again.state_dict()["state"]
    assert all(torch.equal(kept[0][name], found[0][name]) for name in kept[0])
    assert torch.equal(carried.repair.defense["network"]["weight"], network.weight)


def test_momenta_and_settings_of_strategies_come_back(file: CheckpointFile) -> None:
    adam, momentum = FedAdam(eta=0.5), FedAvgM(server_momentum=0.5)
    adam.m_t = {"w": np.ones((2, 2)), "n": np.float64(3)}  # type: ignore[dict-item]
    momentum.momentum_vector = [np.zeros(3, np.float32), np.array(1)]
    kept = keep(file, None, adam, momentum)
    new_adam, new_momentum = FedAdam(eta=0.5), FedAvgM(server_momentum=0.5)
    kept.bring_back([new_adam, new_momentum])
    assert new_adam.m_t is not None
    assert new_momentum.momentum_vector is not None
    assert np.array_equal(new_adam.m_t["w"], np.ones((2, 2)))
    assert isinstance(new_adam.m_t["n"], np.float64)
    assert new_momentum.momentum_vector[0].dtype == np.float32
    assert new_momentum.momentum_vector[1].shape == ()
    assert new_adam.train_metrics_aggr_fn is not None


def test_what_a_user_strategy_learned_comes_back_and_the_rest_is_told(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.trust: dict[int, tuple[float, ...]] = {}
            self.model = torch.nn.Linear(1, 1)

    used = Mine()
    used.trust = {7: (0.5, 0.25)}
    new = Mine()
    warned: list[str] = []
    monkeypatch.setattr(
        "fl_defense.flower.checkpoint.logger.warning",
        lambda text, *parts: warned.append(text % parts),
    )
    keep(file, None, used).bring_back([new])
    assert new.trust == {7: (0.5, 0.25)}
    assert warned == ["Mine.model was not in the checkpoint and starts afresh"]


def test_random_generators_go_on_where_they_were(file: CheckpointFile) -> None:
    def draw() -> tuple[float, float, float]:
        numpy_draw = float(np.random.rand())  # noqa: NPY002
        return random.random(), numpy_draw, torch.rand(1).item()

    kept = keep(file)
    expected = draw()
    kept.bring_back([])
    assert draw() == expected


def test_reading_runs_no_code(file: CheckpointFile, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    keep(file)
    buffer = io.BytesIO()
    torch.save({"belongs_to": Touch()}, buffer)
    payload = buffer.getvalue()
    file.path.write_bytes(MAGIC + Seal().of(b"", payload).encode() + b" \n" + payload)
    with pytest.raises(CheckpointError, match="cannot be loaded here"):
        file.read()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("at", [0, 20, 60, 200, -1])
def test_one_damaged_byte_is_noticed(file: CheckpointFile, at: int) -> None:
    keep(file)
    content = bytearray(file.path.read_bytes())
    content[at] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint"):
        file.read()


def test_a_cut_off_file_is_damaged(file: CheckpointFile) -> None:
    keep(file)
    file.path.write_bytes(file.path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged, its checksum does not fit"):
        file.read()


def test_a_missing_file_is_told(file: CheckpointFile) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        file.read()


def test_another_runs_checkpoint_is_refused(file: CheckpointFile) -> None:
    keep(file)
    with pytest.raises(CheckpointError, match="belongs to a run with other settings"):
        CheckpointFile(path=file.path, belongs_to="another run").read()


def test_other_strategies_are_refused(file: CheckpointFile) -> None:
    kept = keep(file, None, FedAdam())
    with pytest.raises(CheckpointError, match=r"written with the strategies \['FedAdam'\], got"):
        kept.bring_back([FedAvg()])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("aggregate_train", 3, "'aggregate_train' is no data of FedAvg"),
        ("train_metrics_aggr_fn", "os.system", "'train_metrics_aggr_fn' is no data of FedAvg"),
        ("__class__", 3, "'__class__' is no name of an attribute"),
        ("two words", 3, "'two words' is no name of an attribute"),
        ("fraction_train", "all", "'fraction_train' must be a number, got str"),
        ("weighted_by_key", 7, "'weighted_by_key' must be text, got int"),
        ("min_train_nodes", [2], "'min_train_nodes' must be a number, got list"),
    ],
)
def test_attributes_that_are_none_of_the_strategys_are_refused(
    name: str, value: Any, said: str, file: CheckpointFile
) -> None:
    forged = keep(file, None, FedAvg())
    strategy, state = FedAvg(), random.getstate()
    attributes = {**forged.strategies[0].attributes, name: value}
    forged = replace(forged, strategies=[replace(forged.strategies[0], attributes=attributes)])
    before = dict(vars(strategy))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        forged.bring_back([strategy])
    assert vars(strategy) == before
    assert random.getstate() == state


@pytest.mark.parametrize(
    "changes",
    [
        {"carried": {"round": "two"}},
        {"carried": {"round": -1}},
        {"carried": {"round": 1, "unknown": 2}},
        {"carried": {"round": 1, "released": 7}},
        {"carried": {"round": 1, "layouts": 7}},
        {"carried": {"round": 1, "repair": {"unknown": 1}}},
        {"carried": 7},
        {"strategies": 7},
        {"strategies": [{"name": "FedAvg"}]},
        {"generators": []},
        {"belongs_to": None},
    ],
)
def test_what_is_no_checkpoint_inside_is_one_line(
    changes: dict[str, Any], file: CheckpointFile
) -> None:
    content = {"belongs_to": "", "carried": {"round": 1, "repair": {}}, "strategies": [],
               "generators": {}} | changes  # fmt: skip
    if isinstance(content["carried"], dict):
        content["carried"] = {"repair": {}} | content["carried"]
    buffer = io.BytesIO()
    torch.save(pack(content, "checkpoint"), buffer)
    payload = buffer.getvalue()
    file.path.write_bytes(MAGIC + Seal().of(b"", payload).encode() + b" \n" + payload)
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert "\n" not in str(caught.value)


def test_generators_that_are_none_are_refused(file: CheckpointFile) -> None:
    forged = replace(keep(file), generators={"python": (1, 2), "numpy": 3, "torch": 4})
    with pytest.raises(CheckpointError, match="holds no state of the generators"):
        forged.bring_back([])


def test_models_of_another_network_are_refused(file: CheckpointFile, tiny_spec: ModelSpec) -> None:
    right = ArrayRecord(tiny_spec.build().state_dict())
    for carried in (
        Carried(round=1, arrays=ARRAYS),
        Carried(round=1, arrays=right, released=ARRAYS),
        Carried(round=1, arrays=right, earlier=[right, ARRAYS]),
    ):
        strategy = SanitizingStrategy(FedAvg(), NoDefense(), tiny_spec, device="cpu")
        with pytest.raises(CheckpointError, match="checkpoint"):
            strategy.resume(keep(file, carried, FedAvg()))
        assert strategy.released is None


def test_what_cannot_be_kept_is_named(file: CheckpointFile) -> None:
    carried = Carried(
        round=1, repair=RepairState(defense={"generator": {"net": torch.nn.Linear(1, 1)}})
    )
    with pytest.raises(
        CheckpointError, match=r"carried.repair.defense.generator.net: .* got Linear"
    ):
        keep(file, carried)
    assert not file.path.exists()


def test_a_crash_in_writing_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def crash(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
