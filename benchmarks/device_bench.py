"""Where `benchmarks.gpu` measures and how large: device, networks, images, clock and memory."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from simulations.data.readers import read_pictures
from simulations.models.base import Architecture
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN

Row = dict[str, Any]
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large all that is measured is."""

    network: Architecture
    """What is trained, repaired and screened."""
    small_network: Architecture
    """Trained by several clients at once, without BatchNorm."""
    shape: tuple[int, int, int] = (3, 32, 32)
    """Channels, height and width of an image."""
    num_images: int = 4096
    """Images of a client."""
    batches: tuple[int, ...] = (32, 128, 512)
    """Images per step of training; the first is the shipped scenarios'."""
    seconds: float = 2.0
    """Of one timed stretch of training, at least."""
    processes: tuple[int, ...] = (1, 2, 4)
    """Clients that train side by side, each in a process."""
    stacked: tuple[int, ...] = (1, 8, 32, 128)
    """Clients that train in one pass."""
    compiler: str = "inductor"
    """Backend of torch.compile."""
    repair_batches: tuple[int, ...] = (96, 384)
    """Images per step of a repair; the first is the default."""
    repair_steps: int | None = None
    """Steps of a repair with the first of these; None: the method's own."""
    searched_at_once: tuple[int, ...] = (384, 1536)
    """Images in one pass of attribution's search; the first is the default."""
    replies: int = 10
    """Of a screened round."""
    faithful_iterations: int = 300
    """Of the paper's DHBE, at most."""
    faithful_batch: int = 256
    """Images per step of these, the paper's."""
    faithful_seconds: float = 25.0
    """As many iterations are measured as fit in here."""


FULL = Scale(network=ResNet(depth=18), small_network=SmallCNN(width=16, norm="none"))
SMALL = Scale(
    network=SmallCNN(width=8), small_network=SmallCNN(width=4, norm="none"), shape=(3, 16, 16),
    num_images=256, batches=(32,), seconds=0.3, processes=(1, 2), stacked=(1, 4),
    compiler="eager", repair_batches=(32,), repair_steps=5, replies=4, searched_at_once=(384,),
    faithful_iterations=2, faithful_batch=16, faithful_seconds=2.0,
)  # fmt: skip
"""Every section on a CPU within two minutes: its figures say nothing."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how large."""

    device: torch.device
    scale: Scale
    images: Path | None = None
    """A folder with train/ and test/ of pictures; None: pixels are drawn at random."""

    def spec(self, network: Architecture | None = None) -> ModelSpec:
        """Return the structure of a network, of the one that is repaired if none is given."""
        shape = self.scale.shape
        build = partial((network or self.scale.network).build, shape, NUM_CLASSES)
        return ModelSpec(build=build, input_shape=shape, num_classes=NUM_CLASSES)

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return a network, the same in each process."""
        torch.manual_seed(0)
        return spec.build().to(self.device)

    def pictures(self) -> tuple[Tensor, Tensor, str]:
        """Return a client's images, uint8 (N, C, H, W), their labels (N,), and where they are from.

        Pixels are drawn at random where pictures cannot be read: the time is the same.
        """
        why = "no folder was given"
        if self.images is not None:
            try:
                images, labels = self._read(self.images)
            except (ImportError, OSError, ValueError) as error:
                why = one_line(error)
            else:
                return images.to(self.device), labels.to(self.device), self.images.name
        size = (self.scale.num_images, *self.scale.shape)
        images = torch.randint(256, size, dtype=torch.uint8, device=self.device)
        labels = torch.arange(len(images), device=self.device) % NUM_CLASSES
        return images, labels, f"synthetic: {why}"

    def _read(self, folder: Path) -> tuple[Tensor, Tensor]:
        """Read as many pictures as a client has, of each class alike."""
        channels, side, _ = self.scale.shape
        each = self.scale.num_images // NUM_CLASSES
        classes = sorted(path for path in (folder / "train").iterdir() if path.is_dir())
        samples = [(str(path), label) for label, found in enumerate(classes[:NUM_CLASSES])
                   for path in islice(found.iterdir(), each)]  # fmt: skip
        return read_pictures(samples, side, channels)

    def time(self, work: Callable[[], object]) -> Row:
        """Return the seconds of a work, and its peak of memory in MiB."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work()
        self.wait()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "peak_mebibytes": self.peak()}

    def wait(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """Return the peak of a GPU's memory in MiB; on a CPU that of the whole process so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def speed(bench: Bench, step: Callable[[], object], num_images: int) -> Row:
    """Return how many images pass in a second by steps of so many."""
    for _ in range(3):
        step()
    blocks = 0
    spent: Row = {"seconds": 0.0}
    while spent["seconds"] < bench.scale.seconds:
        more = bench.time(lambda: [step() for _ in range(10)])
        more["seconds"] += spent["seconds"]
        spent, blocks = more, blocks + 1
    return spent | {"images_per_second": 10 * blocks * num_images / spent["seconds"]}


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of what it says."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}"
