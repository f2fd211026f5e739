"""Models that the benchmarks repair and inspect: centrally trained, with a backdoor or without.

A model is trained once per setting and kept on disk under a name that is the setting's hash.
Neither Flower, Ray nor pydantic is needed: torch, torchvision, numpy and scikit-learn are enough.
"""

import hashlib
import json
import tarfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

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
from benchmarks.subsets import Subset
from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.model.spec import ModelSpec
from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.blended import Blended
from simulations.attack.triggers.patch import Patch
from simulations.attack.triggers.sinusoid import Sinusoid
from simulations.attack.triggers.warped import Warped
from simulations.data import Digits, FashionMNIST, ImageData, ImageFolder, ImageSource
from simulations.measurement.metrics import measure_clean, measure_triggered
from simulations.measurement.metrics.base import Triggered
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
TEN = (1, 2, 4, 5, 7, 9, 10, 12, 13, 38)
"""Ten frequent classes of GTSRB."""
OTHER = {
    "digits": "fashion-mnist",
    "fashion-mnist": "digits",
    "cifar10": "gtsrb",
    "gtsrb": "cifar10",
}
"""The data set whose images are out of distribution for another's models."""
SUBSETS: dict[str, tuple[tuple[int, ...], dict[str, Any], bool]] = {
    "gtsrb-10": (TEN, {}, False),
    "gtsrb-10-64": (TEN, {"size": 64}, False),
    "gtsrb-10-96": (TEN, {"size": 96}, False),
    "gtsrb-10-gray-64": (TEN, {"size": 64, "channels": 1, "mean": (0.33,), "std": (0.27,)}, False),
    "gtsrb-3": (TEN[:3], {}, False),
    "gtsrb-100": (tuple(range(25)), {}, True),
}
"""Data sets made from GTSRB: its classes, how its pictures are read, whether they are turned."""
CIFAR_PIXELS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
GTSRB_PIXELS = {"mean": (0.3403, 0.3121, 0.3214), "std": (0.2724, 0.2608, 0.2669)}


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
        backdoor = self._backdoor("patch" if name == "clean" else name)
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

    def _backdoor(self, trigger: str) -> Backdoor:
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
        self.roots = roots
        self.device = device
        self.max_test = max_test
        cache.mkdir(parents=True, exist_ok=True)

    def victim(self, setting: Setting) -> Victim:
        """Return the trained model of a setting, from disk if it is there."""
        source = replace(
            self._source(setting.data), max_train=setting.max_train, max_test=self.max_test
        )
        data = _load(source)
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
        images = _load(replace(self._source(setting.data), max_test=self.max_test)).train_images
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
        source = self._source(OTHER[setting.data])
        return _load(replace(source, max_test=self.max_test)).train_images

    def _source(self, name: str) -> ImageSource:
        if name == "digits":
            return Digits()
        if name in SUBSETS:
            classes, settings, turned = SUBSETS[name]
            return Subset(of=self._folder("gtsrb", settings), classes=classes, turned=turned)
        root = self.roots.get(name, Path("data"))
        if name == "fashion-mnist":
            return FashionMNIST(root=str(root))
        return self._folder(name, {})

    def _folder(self, name: str, settings: Mapping[str, Any]) -> ImageFolder:
        root = self.roots.get(name, Path("data"))
        if root.is_file():
            root = self._unpack(root, name)
        pixels: dict[str, Any] = {"cifar10": CIFAR_PIXELS, "gtsrb": GTSRB_PIXELS}[name]
        return ImageFolder(root=str(root), **{"size": 32} | pixels | dict(settings))

    def _unpack(self, archive: Path, name: str) -> Path:
        folder = self.cache / name
        if not folder.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        return folder if (folder / "train").exists() else next(folder.iterdir())


@lru_cache(maxsize=3)
def _load(source: ImageSource) -> ImageData:
    return source.load()


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
    backdoor = victim._backdoor(victim.setting.trigger)
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
