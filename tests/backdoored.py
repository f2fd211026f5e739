"""Small backdoored networks, trained once for all tests and all test processes."""

from __future__ import annotations

import fcntl
import hashlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from fl_defense.atomic_write import replace_file
from fl_defense.metrics import accuracy, attack_success_rate, robust_accuracy
from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.model.spec import ModelSpec
from simulations.attack.backdoor import Backdoor
from simulations.data import Digits, load_data
from simulations.models.small_cnn import SmallCNN

ROOT = Path(__file__).parents[1]
SPEC = ModelSpec(
    build=partial(SmallCNN(width=16).build, (1, 16, 16), 10),
    input_shape=(1, 16, 16),
    num_classes=10,
    pixels=Digits.pixels,
)


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


def trained_once(backdoor: Backdoor, folder: Path | None) -> Backdoored:
    """Return a network that answers to a backdoor, from `folder` if it was trained before.

    A second test process waits for the first. Without a folder nothing is kept.
    """
    if folder is None:
        model = train(backdoor)
    else:
        path = folder / f"{identity(backdoor)}.pt"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                model = built()
                model.load_state_dict(torch.load(path, weights_only=True))
            else:
                model = train(backdoor)
                file = io.BytesIO()
                torch.save(model.state_dict(), file)
                replace_file(path, file.getvalue())
    result = Backdoored(model=model.eval(), spec=SPEC, backdoor=backdoor)
    found = result.measure(DeployedModel(model, SPEC.pixels))
    assert found[0] > 0.95, found
    assert found[1] > 0.95, found
    return result


def identity(backdoor: Backdoor) -> str:
    """Return a hash of all that a network's weights depend on: settings, code, version of torch."""
    code = [Path(__file__)]
    for room in ("attack", "data", "models"):
        code += sorted((ROOT / "simulations" / room).rglob("*.py"))
    parts = [repr(backdoor), torch.__version__, *(path.read_text() for path in code)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def train(backdoor: Backdoor) -> nn.Module:
    """Train a small network on the digits, one in ten with the trigger: about 3 seconds."""
    data = load_data(Digits())
    generator = torch.Generator().manual_seed(0)
    images, labels = data.train_images.float() / 255, data.train_labels.clone()
    poisoned = torch.randperm(len(labels), generator=generator)[: len(labels) // 10]
    images[poisoned], labels[poisoned] = backdoor.apply(
        images[poisoned], labels[poisoned], SPEC.num_classes
    )
    model = built().train()
    epochs, batch_size = 15, 64
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=epochs * -(-len(labels) // batch_size) + 1
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
            logits = model(SPEC.pixels.normalize(images[batch]))
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model


def built() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SPEC.build()
