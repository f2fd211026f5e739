"""A malicious client's context without a federation around it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec, Pixels
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.federation.trainer import Trainer
from simulations.scenario.training import Training

MakeContext = Callable[..., AttackContext]


def tiny_network() -> nn.Module:
    """Two layers for images of 1x8x8 and four classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))


def images_of(partition: int) -> tuple[Tensor, Tensor]:
    """Return 40 images, each brighter where its class's stripe is, and their labels."""
    draws = torch.Generator().manual_seed(100 + partition)
    labels = torch.arange(40) % 4
    images = torch.randint(0, 80, (40, 1, 8, 8), generator=draws)
    for index, label in enumerate(labels.tolist()):
        images[index, :, 2 * label : 2 * label + 2] += 150
    return images.to(torch.uint8), labels


@pytest.fixture
def make_context() -> MakeContext:
    """Return what builds a context; by default client 1 of the attackers 1 and 3 of ten."""

    def make(
        *backdoors: Backdoor,
        partition: int = 1,
        received: Mapping[str, Tensor] | None = None,
        weights: frozenset[str] | None = None,
        num_classes: int = 4,
        **changed: Any,
    ) -> AttackContext:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = tiny_network()
        fields: dict[str, Any] = {
            "server_round": 1,
            "attackers": (1, 3),
            "malicious": (1, 3),
            "num_clients": 10,
            "num_replies": 10,
            "seed": 0,
            "spec": ModelSpec(
                build=tiny_network, input_shape=(1, 8, 8), num_classes=num_classes, pixels=Pixels()
            ),
            "training": Trainer(
                Training(batch_size=8),
                Pixels(),
                torch.Generator().manual_seed(partition),
                learning_rate=0.05,
            ),
            "data_of": images_of,
            "memory": {},
            "device": torch.device("cpu"),
        }
        return AttackContext(
            partition=partition,
            backdoors=backdoors or (Backdoor(target=3),),
            received=received if received is not None else model.state_dict(),
            weights=weights or frozenset(name for name, _ in model.named_parameters()),
            **fields | changed,
        )

    return make
