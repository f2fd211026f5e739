"""Models that the benchmarks repair and inspect: centrally trained, with a backdoor or without.

A model is trained once per setting and kept on disk under a name that is the setting's hash.
Neither Flower, Ray nor pydantic is needed: torch, torchvision, numpy and scikit-learn are enough.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.architectures import (
    MLP,
    VGG,
    SmallConvNeXt,
    SmallViT,
    TemplateNet,
    Torchvision,
)
from benchmarks.drawn import drawn_backdoor
from benchmarks.victim_data import OTHER, Sources, loaded
from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.model.spec import ModelSpec
from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.blended import Blended
from simulations.attack.triggers.patch import Patch
from simulations.attack.triggers.sinusoid import Sinusoid
from simulations.attack.triggers.warped import Warped
from simulations.data import ImageData
from simulations.metrics import measure_clean, measure_triggered
from simulations.metrics.base import Triggered
from simulations.models.base import Architecture
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN

MODELS: dict[str, Architecture] = {
    "small-cnn": SmallCNN(width=16),
    "resnet-10-w16": ResNet(depth=10, width=16),
    "resnet-18": ResNet(depth=18),
    "preact-resnet-18": ResNet(depth=18, pre_activation=True),
    "resnet-10-group": ResNet(depth=10, width=16, norm="group"),
    "template-net": TemplateNet(),
    "mlp": MLP(),
    "small-vit": SmallViT(),
    "small-convnext": SmallConvNeXt(),
    "vgg-11": VGG(),
    "mobilenet-v3": Torchvision(name="mobilenet_v3_small"),
    "torchvision-resnet-18": Torchvision(name="resnet18"),
    "torchvision-resnet-18-group": Torchvision(name="resnet18", group_norm=True),
}
TRIGGERS: dict[str, Trigger] = {
    "patch": Patch(),
    "patch-5x5": Patch(size=5),
    "patch-8x8": Patch(size=8),
    "blended": Blended(),
    "sinusoid": Sinusoid(),
    "sinusoid-5.5": Sinusoid(frequency=5.5),
    "warped": Warped(),
}
"""Each trigger with the settings that the tables report; "clean" is a model without a backdoor,
"drawn" one whose patch and target are drawn from the setting's seed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a victim depends on."""

    data: str
    """digits, fashion-mnist, cifar10 or gtsrb."""
    trigger: str
    """A name of `TRIGGERS`, or clean."""
    seed: int
    """Of the weights, the order of the images and the choice of poisoned ones."""
    model: str = "resnet-10-w16"
    """A name of `MODELS`."""
    max_train: int | None = 10_000
    """Training images; None: all."""
    epochs: int = 5
    """Passes over them."""
    poison_rate: float = 0.1
    """Share of the images that is stamped and relabelled."""
    target: int = 0
    """Class of the stamped images."""
    source: int | None = None
    """Class-specific backdoor: only images of this class are relabelled, half as many others are
    stamped and keep their label; None: images of any class are relabelled."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 0.05
    """Peak of the one-cycle schedule of SGD with momentum 0.9 and weight decay 5e-4."""
    optimizer: str = "sgd"
    """sgd, or adam for networks that learn little by it."""

    @property
    def key(self) -> str:
        """Name of the file: a hash of the setting, of its trigger and of its model."""
        content = asdict(self) | {
            "model": repr(MODELS[self.model]),
            "trigger": repr(TRIGGERS[self.trigger]) if self.trigger in TRIGGERS else self.trigger,
        }
        # Left out where they say nothing: other victims are named without them.
        for name, usual in (("source", None), ("optimizer", "sgd")):
            if content[name] == usual:
                del content[name]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A trained model with what is needed to repair it and to measure the repair."""

    setting: Setting
    model: nn.Module
    spec: ModelSpec
    data: ImageData

    def measure(self, deployed: nn.Module, trigger: str | None = None) -> dict[str, float]:
        """Return the rates on the test images by the names of `METRICS`.

        Args:
            deployed: maps images in [0, 1] to logits.
            trigger: measured with; the victim's own by default, the patch for a clean model.
        """
        name = trigger or self.setting.trigger
        backdoor = self.backdoor("patch" if name == "clean" else name)
        images, labels = self.data.test_images.float() / 255, self.data.test_labels
        stamped, wanted = backdoor.apply(images, labels, self.spec.num_classes)
        device = next(deployed.parameters()).device
        clean = predict(deployed, (batch.to(device) for batch in images.split(500)))
        triggered = predict(deployed, (batch.to(device) for batch in stamped.split(500)))
        return measure_clean(clean, labels) | measure_triggered(
            Triggered(
                predicted=triggered,
                labels=labels,
                wanted=wanted,
                is_source=backdoor.is_source(labels),
            )
        )

    def backdoor(self, trigger: str) -> Backdoor:
        """Return the backdoor by a trigger's name, with the victim's target."""
        if trigger == "drawn":
            shape, num_classes = self.spec.input_shape, self.spec.num_classes
            return drawn_backdoor(self.setting.seed, shape, num_classes)
        source = self.setting.source
        return Backdoor(
            trigger=TRIGGERS[trigger],
            target=self.setting.target,
            sources=None if source is None else (source,),
        )


class NoImageLeftError(ValueError):
    """A victim was trained on all images of its data set."""


class Farm:
    """Makes victims and keeps them.

    Args:
        cache: folder for trained models and unpacked archives.
        roots: per data set, an ImageFolder or its .tar.gz archive; for fashion-mnist the folder of
            the idx files.
        device: where to train.
        max_test: test images to measure on; None: all.
    """

    def __init__(
        self,
        cache: Path,
        roots: Mapping[str, Path],
        device: torch.device,
        max_test: int | None = 2000,
    ) -> None:
        self.cache = cache
        self.sources = Sources(cache, roots)
        self.device = device
        self.max_test = max_test
        cache.mkdir(parents=True, exist_ok=True)

    def victim(self, setting: Setting) -> Victim:
        """Return the trained model of a setting, from disk if it is there."""
        source = replace(
            self.sources.source(setting.data), max_train=setting.max_train, max_test=self.max_test
        )
        data = loaded(source)
        spec = ModelSpec(
            build=partial(MODELS[setting.model].build, source.input_shape, source.num_classes),
            input_shape=source.input_shape,
            num_classes=source.num_classes,
            pixels=source.pixels,
        )
        path = self.cache / f"{setting.key}.pt"
        torch.manual_seed(setting.seed)
        model = spec.build().to(self.device)
        victim = Victim(setting=setting, model=model, spec=spec, data=data)
        if path.exists():
            model.load_state_dict(torch.load(path, self.device, weights_only=True))
        else:
            started = time.perf_counter()
            _train(victim, self.device)
            torch.save(model.state_dict(), path)
            rates = victim.measure(DeployedModel(model, spec.pixels))
            say(f"trained {setting} in {time.perf_counter() - started:.0f} s: {rates}")
        model.eval()
        return victim

    def unlabelled(self, setting: Setting) -> Tensor:
        """Return the training images that the victim was not trained on, uint8 (N, C, H, W).

        Raises:
            NoImageLeftError: if it was trained on all.
        """
        images = loaded(
            replace(self.sources.source(setting.data), max_test=self.max_test)
        ).train_images
        if setting.max_train is None or setting.max_train >= len(images):
            raise NoImageLeftError(
                f"the victim was trained on all {len(images)} images of {setting.data}; "
                "give a lower --max-train"
            )
        # As the data set draws its first `max_train` images.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return images[order[setting.max_train :]]

    def other(self, setting: Setting) -> Tensor:
        """Return training images of a data set that shares no class with the victim's, uint8."""
        source = self.sources.source(OTHER[setting.data])
        return loaded(replace(source, max_test=self.max_test)).train_images


def _train(victim: Victim, device: torch.device) -> None:
    """Train in place, on images of which part carry the trigger."""
    setting, pixels = victim.setting, victim.spec.pixels
    generator = torch.Generator().manual_seed(setting.seed)
    images, labels = _poisoned(victim, generator)
    images, labels = images.to(device), labels.to(device)
    steps_per_epoch = -(-len(labels) // setting.batch_size)
    model = victim.model.train()
    optimizer: torch.optim.Optimizer
    if setting.optimizer == "adam":
        optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        setting.learning_rate,
        total_steps=setting.epochs * steps_per_epoch + 1,
        cycle_momentum=setting.optimizer == "sgd",
    )
    for _ in range(setting.epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(setting.batch_size):
            batch = batch.to(device)
            logits = model(pixels.normalize(images[batch].float() / 255))
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()


def _poisoned(victim: Victim, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images, labels = victim.data.train_images.clone(), victim.data.train_labels.clone()
    if victim.setting.trigger == "clean":
        return images, labels
    count = round(victim.setting.poison_rate * len(labels))
    order = torch.randperm(len(labels), generator=generator)
    backdoor = victim.backdoor(victim.setting.trigger)
    meant = backdoor.is_source(labels[order])
    chosen = torch.cat([order[meant][:count], order[~meant][: count // 2]])
    stamped, relabeled = backdoor.apply(
        images[chosen].float() / 255, labels[chosen], victim.spec.num_classes
    )
    images[chosen] = (stamped * 255).round().to(torch.uint8)
    labels[chosen] = relabeled
    return images, labels


def say(line: str) -> None:
    """Print at once: a benchmark's progress is read while it runs."""
    print(line, flush=True)  # noqa: T201
