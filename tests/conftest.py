"""What several tests share: a toy federation of messages, and one backdoored model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

# Before torch is imported, as the command line does it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The same networks whatever the number of cores; processes that tests start follow.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.metrics import accuracy, attack_success_rate, robust_accuracy
from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.model.spec import ModelSpec
from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.blended import Blended
from simulations.data import Digits, load_data
from simulations.federation.in_process import set_task_identity
from simulations.models.small_cnn import SmallCNN

Arrays = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def task_identity() -> None:
    """Messages can be made only inside a task since Flower 1.41."""
    set_task_identity()


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


@dataclass(frozen=True, kw_only=True)
class Backdoored:
    """A trained network that obeys a trigger, and how it measures."""

    model: nn.Module
    spec: ModelSpec
    backdoor: Backdoor

    def measure(self, deployed: nn.Module) -> tuple[float, float, float]:
        """Return accuracy, attack success rate and robust accuracy on the test digits."""
        data = load_data(Digits())
        images, labels = data.test_images.float() / 255, data.test_labels
        stamped, target = self.backdoor.apply(images, labels, self.spec.num_classes)
        clean, triggered = predict(deployed, [images]), predict(deployed, [stamped])
        return (
            accuracy(clean, labels),
            attack_success_rate(triggered, labels, target),
            robust_accuracy(triggered, labels, target),
        )


@pytest.fixture(scope="session")
def backdoored() -> Backdoored:
    """Return a network that obeys a patch."""
    return train_backdoored(Backdoor())


@pytest.fixture(scope="session")
def blended() -> Backdoored:
    """Return a network that obeys noise all over the image."""
    return train_backdoored(Backdoor(trigger=Blended(opacity=0.2)))


def train_backdoored(backdoor: Backdoor) -> Backdoored:
    """Train a small network on the digits, one in ten with the trigger: about 3 seconds."""
    data = load_data(Digits())
    spec = ModelSpec(
        build=partial(SmallCNN(width=16).build, (1, 16, 16), 10),
        input_shape=(1, 16, 16),
        num_classes=10,
        pixels=Digits.pixels,
    )
    generator = torch.Generator().manual_seed(0)
    images, labels = data.train_images.float() / 255, data.train_labels.clone()
    poisoned = torch.randperm(len(labels), generator=generator)[: len(labels) // 10]
    images[poisoned], labels[poisoned] = backdoor.apply(
        images[poisoned], labels[poisoned], spec.num_classes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = spec.build().train()
    epochs, batch_size = 15, 64
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=epochs * -(-len(labels) // batch_size) + 1
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
            logits = model(spec.pixels.normalize(images[batch]))
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    result = Backdoored(model=model.eval(), spec=spec, backdoor=backdoor)
    found = result.measure(DeployedModel(model, spec.pixels))
    assert found[0] > 0.95, found
    assert found[1] > 0.95, found
    return result
