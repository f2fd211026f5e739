"""What several tests share: a toy federation of messages, and two backdoored models."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

# Before torch is imported, as the command line does it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The same networks whatever the number of cores; processes that tests start follow.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
import typer.testing
from flwr.app import ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.rounds import gate
from fl_defense.surrogates.scenes import scenes
from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.blended import Blended
from simulations.engines.local_grid import set_task_identity
from simulations.measurement import plots
from simulations.models.small_cnn import SmallCNN
from tests.backdoored import Backdoored, trained_once

Arrays = Mapping[str, Tensor]

# The tests import hundreds of thousands of objects, none of which is garbage.
gc.disable()


modules_spared = 0


def spare_imports() -> None:
    """Let no collection look at what was imported: Flower collects whenever it reads arrays."""
    global modules_spared
    gc.collect()
    gc.freeze()
    modules_spared = len(sys.modules)


def pytest_collection_finish() -> None:
    """Begin to collect garbage."""
    spare_imports()
    gc.enable()


def pytest_runtest_teardown() -> None:
    """Spare what a test was the first to import, too: scikit-learn alone is 200,000 objects."""
    if len(sys.modules) > modules_spared:
        spare_imports()


def pytest_unconfigure() -> None:
    """Let the interpreter clean up as usual."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def task_identity() -> None:
    """Messages can be made only inside a task since Flower 1.41."""
    set_task_identity()


@pytest.fixture(autouse=True, scope="session")
def small_pictures() -> Iterator[None]:
    """Draw the curves of every run smaller: large ones take as long as the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 60)
        yield


@pytest.fixture(autouse=True, scope="session")
def made_commands() -> Iterator[None]:
    """Make the command line of its functions once, not at each call of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True, scope="session")
def drawn_scenes() -> Iterator[None]:
    """Draw the scenes of the do-no-harm gate once for each seed and shape; nobody changes them."""

    @functools.cache
    def drawn(num: int, shape: tuple[int, int, int], seed: int) -> Tensor:
        return scenes(num, shape, generator=torch.Generator().manual_seed(seed))

    def scenes_of(num: int, shape: tuple[int, int, int], *, generator: torch.Generator) -> Tensor:
        return drawn(num, shape, generator.initial_seed())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "scenes", scenes_of)
        yield


@pytest.fixture
def reply() -> Callable[..., Message]:
    """Makes a client's answer to a training message."""

    def make(
        arrays: Arrays | None, *, node: int = 1, metrics: Mapping[str, float] | None = None
    ) -> Message:
        question = Message(RecordDict(), node, MessageType.TRAIN)
        if arrays is None:
            return Message(Error(1, "client died"), reply_to=question)
        content = RecordDict(
            {
                "arrays": ArrayRecord(dict(arrays)),
                "metrics": MetricRecord(dict(metrics or {"num-examples": 10})),
            }
        )
        return Message(content, reply_to=question)

    return make


@pytest.fixture
def tiny_spec() -> ModelSpec:
    """An untrained BatchNorm network of a few hundred weights on 8x8 gray images."""
    return ModelSpec(
        build=partial(SmallCNN(width=4).build, (1, 8, 8), 3), input_shape=(1, 8, 8), num_classes=3
    )


@pytest.fixture
def tiny_model(tiny_spec: ModelSpec) -> nn.Module:
    """One such network, the same in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_spec.build().eval()


@pytest.fixture(scope="session")
def victims_folder(pytestconfig: pytest.Config) -> Path | None:
    """Where trained networks are kept from one run to the next, if pytest may keep anything."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return cache and cache.mkdir("backdoored")


@pytest.fixture(scope="session")
def backdoored(victims_folder: Path | None) -> Backdoored:
    """Return a network that answers to a patch."""
    return trained_once(Backdoor(), victims_folder)


@pytest.fixture(scope="session")
def blended(victims_folder: Path | None) -> Backdoored:
    """Return a network that answers to noise all over the image."""
    return trained_once(Backdoor(trigger=Blended(opacity=0.2)), victims_folder)
