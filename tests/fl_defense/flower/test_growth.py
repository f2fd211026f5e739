"""A hundred and twenty rounds with memories, histories and screens: what is carried does not grow.

Sizes are counted, not timed: what a server holds is what its checkpoint holds, and live objects.
`python -m benchmarks.growth` measures the time and the memory of such rounds.
"""

import gc
import logging
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam
from torch import nn

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import NoDefense
from fl_defense.screens import Attribution, NormClipping
from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.search.difference import DifferenceSearch
from fl_defense.search.patterns import Patches
from tests.fl_defense.flower.listed_grid import ListedGrid
from tests.quick import SEARCH

ROUNDS = 120
NODES = [1, 2, 3, 4]
QUICK = Attribution(
    search=DifferenceSearch(families=(Patches(share=3 / 8),), first_steps=1, steps=1),
    rule=OutlierRule(),
    num_scenes=8,
    num_judges=8,
    num_first_judges=8,
    candidates_per_image=1,
)


def answer(question: Message, server_round: int) -> Message:
    """Move a little; one node plants a patch now and then, so that memories fill."""
    node = question.metadata.dst_node_id
    generator = torch.Generator().manual_seed(server_round * 10 + node)
    arrays = question.content.array_records["arrays"].to_torch_state_dict()
    moved = {k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in arrays.items()}
    if node == 4 and server_round % 3 == 0:
        moved["1.weight"].view(3, 8, 8)[server_round % 3, 3:6, 3:6] += 10.0
    metrics = MetricRecord({"num-examples": 10})
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
    return Message(content, reply_to=question)


def test_nothing_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("fl_defense.rounds.gate.NUM_IMAGES", 16)
    spec = ModelSpec(
        build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        input_shape=(1, 8, 8),
        num_classes=3,
    )
    sizes: list[int] = []
    lengths: list[int] = []
    objects: list[int] = []
    file = CheckpointFile(path=tmp_path / "checkpoint")
    strategy = SanitizingStrategy(
        FedAdam(min_train_nodes=4, min_available_nodes=4),
        NoDefense(),
        spec,
        screens=[NormClipping(), QUICK],
        schedule=Schedule(on_suspicion="history"),
        inspection=SEARCH,
        verify=None,
        reference_age=3,
        observe=lambda outcome: lengths.append(len(outcome.record.to_json())),
        checkpoint_file=file,
        device="cpu",
    )
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)  # Flower's, after each reply
    strategy.num_rounds = ROUNDS
    arrays = ArrayRecord(spec.build().state_dict())
    for server_round in range(1, ROUNDS + 1):
        asked = strategy.configure_train(server_round, arrays, ConfigRecord(), ListedGrid(NODES))
        replies = [answer(message, server_round) for message in asked]
        arrays = strategy.aggregate_train(server_round, replies)[0] or arrays
        sizes.append(file.path.stat().st_size)
        if server_round % 30 == 0:
            del asked, replies
            collect()
            objects.append(len(gc.get_objects()))
    # Memories fill in the first rounds; a kilobyte or a few objects a round would show.
    assert max(sizes[60:]) < 1.02 * max(sizes[30:60])
    assert max(lengths[60:]) < 1.2 * max(lengths[30:60])
    assert objects[3] - objects[1] < 60
