"""What is fuzzed: whatever a client, a file or a command line holds, the answer is a known one.

A target is a strategy that draws inputs and a function that must not raise. `tests/test_fuzz.py`
tries a few of each in every run of the tests; `make fuzz MINUTES=30` tries many.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedAvgM, FedMedian, MultiKrum
from hypothesis import strategies as st
from safetensors.torch import save
from typer.testing import CliRunner

from fl_defense.flower.checkpoint import MAGIC, Carried, Checkpoint, CheckpointFile
from fl_defense.flower.packing import CheckpointError, pack
from fl_defense.flower.replies import ReplyCheck
from fl_defense.model.files import ModelFileError, load_weights, read_weights
from fl_defense.seal import Seal
from simulations.cli.main import app
from simulations.measurement.reading import as_written
from simulations.measurement.results_folder import read_rounds
from simulations.measurement.round_table import row
from simulations.scenario import ConfigError
from simulations.scenario.load import read_model
from simulations.scenario.overrides import apply_override
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml
from simulations.scenario.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fuzzed."""

    inputs: st.SearchStrategy[Any]
    holds: Callable[[Any], None]
    """Must not raise."""


# --- Bytes that are nearly right -----------------------------------------------------------------


@st.composite
def nearly(draw: st.DrawFn, good: bytes) -> bytes:
    """Return good bytes with some of them replaced, left out or repeated."""
    content = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 1, 1, 2, 8, 100])))
        content = content[:start] + draw(st.binary(max_size=8)) + content[stop:]
    return content[: draw(st.sampled_from([len(content), len(content), len(content) // 2]))]


@lru_cache
def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))


@lru_cache
def torch_bytes(*, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


@lru_cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz"))


def reads_weights(given: tuple[str, bytes]) -> None:
    suffix, content = given
    path = folder() / f"model{suffix}"
    path.write_bytes(content)
    try:
        load_weights(network(), read_weights(path), path)
    except ModelFileError as error:
        assert str(error).isprintable(), str(error)  # noqa: PT017 - may also not be raised
    assert all(value.isfinite().all() for value in network().state_dict().values())


model_files = st.one_of(
    st.tuples(st.just(".pt"), nearly(torch_bytes())),
    st.tuples(st.just(".pth"), nearly(torch_bytes(old=True))),
    st.tuples(st.just(".safetensors"), nearly(save(network().state_dict()))),
    st.tuples(st.sampled_from([".pt", ".safetensors"]), st.binary(max_size=300)),
)

# --- Checkpoints ---------------------------------------------------------------------------------

values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=9),
        st.just(torch.ones(2)), st.just(np.float32(3)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@lru_cache
def checkpoint_bytes() -> bytes:
    path = folder() / "good"
    arrays = ArrayRecord(network().state_dict())
    CheckpointFile(path=path).write(
        Checkpoint.take(Carried(round=2, arrays=arrays), [FedAvgM(server_momentum=0.5)])
    )
    return path.read_bytes()


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """Return a checkpoint with a good seal and anything inside."""
    content: dict[str, Any] = {
        "belongs_to": hashlib.sha256(b"").hexdigest(),
        "carried": {"round": 1, "repair": {}},
        "strategies": [{"name": "FedAvgM", "attributes": {}, "left_out": []}],
        "generators": {},
    }
    attributes = st.dictionaries(
        st.sampled_from([*vars(FedAvgM()), "aggregate_train", "__class__", "new"]),
        values,
        max_size=3,
    )
    content["strategies"][0]["attributes"] = draw(attributes)
    content["carried"] |= draw(
        st.dictionaries(st.sampled_from([*vars(Carried()), "x"]), values, max_size=2)
    )
    content |= draw(st.dictionaries(st.sampled_from([*content, "x"]), values, max_size=1))
    buffer = io.BytesIO()
    torch.save(pack(content, "checkpoint"), buffer)
    return sealed(buffer.getvalue())


def sealed(payload: bytes) -> bytes:
    return MAGIC + Seal().of(b"", payload).encode() + b" \n" + payload


def payload_of(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


def reads_checkpoint(content: bytes) -> None:
    path = folder() / "checkpoint"
    path.write_bytes(content)
    strategy = FedAvgM(server_momentum=0.5)
    try:
        CheckpointFile(path=path).read().bring_back([strategy])
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1, str(error)  # noqa: PT017
    assert callable(strategy.aggregate_train)
    assert isinstance(strategy.fraction_train, int | float)


checkpoints = st.one_of(
    nearly(checkpoint_bytes()), forged(), nearly(payload_of(checkpoint_bytes())).map(sealed)
)

# --- YAML, JSON and settings ---------------------------------------------------------------------

WORDS = ["name", "rounds", "data", "digits", "model", "attack", "defense", "dhbe", "seed", "repair",
         "clients", "count", "backdoor", "target", "trigger", "patch", "screens", "attribution"]  # fmt: skip
MARKS = ["\n", "\n  ", ": ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!", "|", ">", "'", '"',
         "#", "<<: ", "? ", "---", "...", "%", "@", "\t", "0x7f", "1e999", ".inf", "null", "~", "1_0",
         "2001-01-01", "\x00", "\ufeff", "\u2028", "é"]  # fmt: skip
yaml_texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*WORDS, *MARKS]), max_size=25).map("".join),
)
scenarios = st.recursive(
    st.one_of(values, st.sampled_from(WORDS)),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(WORDS), inner, max_size=4), st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


def reads_yaml(text: str) -> None:
    try:
        content = read_yaml(text)
    except UnsafeYamlError as error:
        assert len(str(error).splitlines()) == 1, str(error)  # noqa: PT017
        return
    reads_scenario(content)


def reads_scenario(content: Any) -> None:
    try:
        read_model(Scenario, content, trust_imports=False)
    except ConfigError as error:
        assert all(fault for fault in error.faults)  # noqa: PT017


def overrides(text: str) -> None:
    content: dict[str, Any] = {"name": "x", "model": {"name": "small-cnn"}, "defense": [{"a": 1}]}
    try:
        apply_override(content, text, Scenario)
    except ConfigError:
        return
    reads_scenario(content)


keys = ["round", "num_replies", "details", "rates", "backdoors", "agreement", "malicious", "x",
        "train_seconds", "asked", "verdict", "accepted"]  # fmt: skip
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["released", "accuracy", "screens", "verdicts", "refused", "a"]), inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)  # fmt: skip
rounds = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from(keys), json_values, max_size=5).map(
            lambda extra: json.dumps({"round": 1} | extra)
        ),
        json_values.map(json.dumps),
        st.text(max_size=20),
    ),
    max_size=3,
)


def reads_rounds(lines: list[str]) -> None:
    (folder() / "rounds.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        for measured in read_rounds(folder()):
            with as_written(folder()):
                row(measured)
    except ConfigError as error:
        assert len(error.faults) == 1  # noqa: PT017


# --- Command lines -------------------------------------------------------------------------------

COMMANDS = ["run", "show", "calibrate", "inspect", "repair", "evaluate", "compare", "sweep",
            "report", "schema", "nonsense", ""]  # fmt: skip
OPTIONS = ["--set", "--out", "--resume", "--engine", "--dry-run", "--quiet", "--model", "--defense",
           "--input-shape", "--classes", "--mean", "--std", "--seed", "--device", "--json", "--trust",
           "--force", "--picture", "--inspection", "--trigger", "--target", "--data", "--stage",
           "--format", "--against", "--cores", "--false-positive-rate", "--preset", "--nonsense",
           "--inspect-at", "--"]  # fmt: skip
ARGUMENTS = ["", "x", "nowhere", "nowhere.pt", "x.yaml", ".", "/", "/dev/null", "/dev/zero", "..",
             "model.pt", "1,8,8", "0", "-1", "1e999", "nan", "seed=1", "a.b.c=[", "=", "{", "[1]",
             "{name: dhbe}", "{name: 'os:system'}", "os:system", "dhbe", "\n", "é",
             "[red]x", "9" * 30, "x" * 5000]  # fmt: skip
command_lines = st.builds(
    lambda command, words: [command, *words],
    st.sampled_from(COMMANDS),
    st.lists(st.sampled_from([*OPTIONS, *ARGUMENTS]), max_size=7),
)


def calls(words: list[str]) -> None:
    (folder() / "work").mkdir(exist_ok=True)
    words = [w.replace("nowhere", str(folder() / "work" / "nowhere")) for w in words]
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2, 3), result.exit_code


# --- Replies -------------------------------------------------------------------------------------

HONEST = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(5)}
REFERENCE = ArrayRecord(dict(HONEST))
names = st.one_of(st.sampled_from(["w", "n", "arrays", "metrics", "num-examples"]), st.text())
numbers = st.one_of(
    st.floats(), st.integers(), st.sampled_from([0, -1, 10**400, 5e-324, 1.7e308, 1, 20])
)
metrics = st.dictionaries(names, st.one_of(numbers, st.lists(st.floats(), max_size=3)), max_size=3)
configs = st.dictionaries(
    names, st.one_of(st.text(max_size=9), st.booleans(), st.binary(max_size=9), numbers), max_size=2
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    like = REFERENCE[draw(st.sampled_from(["w", "n"]))]
    data = draw(st.one_of(st.binary(max_size=200), nearly(like.data), st.just(like.data)))
    dtype = draw(st.sampled_from([like.dtype, like.dtype, "float64", "object", "", "nonsense"]))
    shape = draw(
        st.one_of(st.just(tuple(like.shape)), st.lists(st.integers(-1, 9), max_size=3).map(tuple))
    )
    return Array(dtype, shape, draw(st.sampled_from(["numpy.ndarray", "torch.Tensor", ""])), data)


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """Return what an honest client sends, with some of it replaced."""
    sent = dict(REFERENCE.items()) | draw(st.dictionaries(names, arrays(), max_size=2))
    for name in draw(st.sets(st.sampled_from(["w", "n"]), max_size=1)):
        del sent[name]
    told = {"num-examples": 10.0, "loss": 0.5} | draw(metrics)
    for name in draw(st.sets(st.sampled_from(["num-examples", "loss"]), max_size=1)):
        told.pop(name)
    content = RecordDict({
        draw(st.sampled_from(["arrays", "arrays", "metrics"])): ArrayRecord(sent),
        draw(st.sampled_from(["metrics", "metrics", "numbers"])): MetricRecord(told),
    })  # fmt: skip
    if draw(st.booleans()) and draw(st.booleans()):
        content["more"] = draw(st.sampled_from([MetricRecord({"a": 1}), ArrayRecord({})]))
    if draw(st.booleans()) and draw(st.booleans()):
        content["config"] = ConfigRecord(draw(configs))
    return content


AGGREGATORS: list[Callable[[], Any]] = [
    FedAvg,
    FedAvgM,
    FedMedian,
    lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    lambda: Bulyan(num_malicious_nodes=0),
]


def answer(content: RecordDict, node: int, kind: str) -> Message:
    return Message(content, reply_to=Message(RecordDict(), node, kind))


def honest(node: int, kind: str) -> Message:
    told = MetricRecord({"num-examples": 10.0, "loss": 0.5})
    content = RecordDict({"arrays": ArrayRecord(dict(HONEST)), "metrics": told})
    if kind == "evaluate":
        del content["arrays"]
    return answer(content, node, kind)


def takes_training_replies(given: tuple[RecordDict, int, Callable[[], Any]]) -> None:
    content, place, aggregator = given
    others = [honest(node, "train") for node in (1, 2, 3, 4)]
    hostile = answer(content, 9, "train")
    checked = ReplyCheck().sort(
        [*others[:place], hostile, *others[place:]], REFERENCE, "num-examples",
        losses={"loss": 1.0},
    )  # fmt: skip
    assert [each for each in checked.valid if each is not hostile] == others
    assert len(checked.valid) + len(checked.rejected) == 5
    assert all(each.reason.isprintable() and each.reason for each in checked.rejected)
    strategy = aggregator()
    strategy.current_arrays = REFERENCE
    with np.errstate(all="ignore"):
        aggregate, _ = strategy.aggregate_train(1, checked.valid)
    assert aggregate is not None
    assert all(np.isfinite(array.numpy()).all() for array in aggregate.values())


def takes_evaluation_replies(given: tuple[RecordDict, int, Callable[[], Any]]) -> None:
    content, place, aggregator = given
    others = [honest(node, "evaluate") for node in (1, 2, 3, 4)]
    hostile = answer(content, 9, "evaluate")
    checked = ReplyCheck().sort_evaluations(
        [*others[:place], hostile, *others[place:]], "num-examples"
    )
    assert [each for each in checked.valid if each is not hostile] == others
    found = aggregator().aggregate_evaluate(1, checked.valid)
    assert found is not None
    assert all(np.isfinite(value) for value in found.values() if not isinstance(value, list))


replies = st.tuples(contents(), st.integers(0, 4), st.sampled_from(AGGREGATORS))

TARGETS = {
    "training replies": Target(inputs=replies, holds=takes_training_replies),
    "evaluation replies": Target(inputs=replies, holds=takes_evaluation_replies),
    "model files": Target(inputs=model_files, holds=reads_weights),
    "checkpoints": Target(inputs=checkpoints, holds=reads_checkpoint),
    "yaml": Target(inputs=yaml_texts, holds=reads_yaml),
    "scenarios": Target(inputs=scenarios, holds=reads_scenario),
    "settings": Target(inputs=yaml_texts, holds=overrides),
    "rounds": Target(inputs=rounds, holds=reads_rounds),
    "command lines": Target(inputs=command_lines, holds=calls),
}
