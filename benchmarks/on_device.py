"""What `benchmarks.gpu` measures: each section yields rows, of figures and what they belong to.

Loads torch and this repository's methods alone: no Flower, Ray, torchvision or pydantic.
"""

import copy
import multiprocessing
import queue
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from benchmarks.defenses import SANITIZERS, changed
from fl_defense.inspections import TriggerSearch
from fl_defense.model.precision import Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import Sanitizer, apply_sanitizer
from fl_defense.screens import Attribution, Reply, Screen, ScreenedRound, Verdict
from fl_defense.search.difference import DifferenceSearch
from simulations.data import CIFAR10
from simulations.data.readers import read_pictures
from simulations.models.base import Architecture
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN
from simulations.training.augmentation import augment

Row = dict[str, Any]
Layout = Literal["contiguous", "channels-last"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
NUM_CLASSES = 10
LEARNING_RATE = 0.01
MOMENTUM = 0.9
PATIENCE = 60.0
"""Seconds that one process waits for the others."""


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


class Client:
    """Trains as the simulations' clients do: shuffles, shifts and mirrors images on the device."""

    def __init__(
        self,
        bench: Bench,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        precision: Precision,
        layout: Layout,
    ) -> None:
        self.bench, self.batch_size, self.precision = bench, batch_size, precision
        self.layout = LAYOUTS[layout]
        self.images, self.labels = images, labels
        self.network = network.train().to(memory_format=self.layout)
        self.optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
        self.draws = torch.Generator().manual_seed(0)
        self.pixels = CIFAR10.pixels if images.shape[1] == 3 else bench.spec().pixels

    def step(self) -> None:
        """Take one step."""
        batch = torch.randint(len(self.labels), (self.batch_size,), generator=self.draws)
        batch = batch.to(self.images.device)
        pictures = augment(self.images[batch].float() / 255, "crop-flip", self.draws)
        inputs = self.pixels.normalize(pictures).to(memory_format=self.layout)
        is_short = self.precision == "bfloat16"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=is_short):
            logits = self.network(inputs)
        loss = functional.cross_entropy(logits.float(), self.labels[batch])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def speed(self) -> Row:
        """Return images per second, once what is done at first use is done."""
        return speed(self.bench, self.step, self.batch_size)


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


def training(bench: Bench) -> Iterator[Row]:
    """One client, by batch size, precision and layout."""
    images, labels, origin = bench.pictures()
    spec = bench.spec()
    for batch_size in bench.scale.batches:
        for precision in ("float32", "bfloat16"):
            for layout in ("contiguous", "channels-last"):
                how: Any = {"batch_size": batch_size, "precision": precision, "layout": layout}
                client = Client(bench, bench.network(spec), images, labels, **how)
                yield how | {"images": origin} | client.speed()


def compiled(bench: Bench) -> Iterator[Row]:
    """The same through torch.compile: as it is, and with CUDA graphs."""
    images, labels, _ = bench.pictures()
    how: Any = {"batch_size": bench.scale.batches[0], "precision": "bfloat16",
                "layout": "channels-last"}  # fmt: skip
    modes: dict[str, dict[str, Any]] = {"default": {}}
    if bench.device.type == "cuda":
        modes["reduce-overhead"] = {"mode": "reduce-overhead"}
    for mode, options in modes.items():
        client = Client(bench, bench.network(bench.spec()), images, labels, **how)
        client.network.compile(backend=bench.scale.compiler, **options)
        started = time.perf_counter()
        client.step()
        bench.wait()
        row = {"mode": mode, "compile_seconds": time.perf_counter() - started}
        yield how | row | client.speed()


def processes(bench: Bench) -> Iterator[Row]:
    """Clients side by side, each in a process of its own: images of all per second."""
    scale = bench.scale
    for name in ("network", "small_network"):
        context = multiprocessing.get_context("spawn")
        most = max(scale.processes)
        barrier, answers = context.Barrier(most), context.Queue()
        workers = [
            context.Process(target=_train_in_turn, args=(bench, name, rank, barrier, answers))
            for rank in range(most)
        ]
        for worker in workers:
            worker.start()
        try:
            for count in scale.processes:
                rows = [answers.get(timeout=PATIENCE) for _ in range(count)]
                together = sum(row["images_per_second"] for row in rows)
                peak = sum(row["peak_mebibytes"] for row in rows)
                yield {"network": name, "processes": count, "images_per_second": together,
                       "peak_mebibytes": peak}  # fmt: skip
        except queue.Empty:
            raise RuntimeError(f"{name}: a process gave no answer in {PATIENCE:.0f} s") from None
        finally:
            for worker in workers:
                worker.join(1)
                worker.kill()


def _train_in_turn(bench: Bench, name: str, rank: int, barrier: Barrier, answers: Any) -> None:
    """Train whenever it is this process's turn: with one process, with two, and so on."""
    if bench.device.type == "cpu":
        torch.set_num_threads(1)
    spec = bench.spec(getattr(bench.scale, name))
    images, labels, _ = bench.pictures()
    client = Client(bench, bench.network(spec), images, labels, precision="float32",
                    batch_size=bench.scale.batches[0], layout="contiguous")  # fmt: skip
    client.step()
    for count in bench.scale.processes:
        barrier.wait(PATIENCE)
        if rank < count:
            answers.put(client.speed())


class StackedClients:
    """Clients with weights of their own that train in one pass, by `torch.func`.

    Args:
        build: makes a client's network, without BatchNorm: running means cannot be stacked.
        num: clients.
        device: where they train.
    """

    def __init__(self, build: Callable[[], nn.Module], num: int, device: torch.device) -> None:
        networks = [build().to(device) for _ in range(num)]
        base = copy.deepcopy(networks[0]).to("meta")
        weights, buffers = stack_module_state(networks)
        self.weights = {name: value.detach() for name, value in weights.items()}
        self.momenta = {name: torch.zeros_like(value) for name, value in self.weights.items()}

        def loss(weights: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
            logits = functional_call(base, {**weights, **buffers}, (inputs,))
            return functional.cross_entropy(logits, labels)

        self._gradients = vmap(grad(loss))

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """Take one step of SGD with each client's inputs (N, B, C, H, W) and labels (N, B)."""
        gradients = self._gradients(self.weights, inputs, labels)
        for name, weight in self.weights.items():
            self.momenta[name].mul_(MOMENTUM).add_(gradients[name])
            weight.sub_(self.momenta[name], alpha=LEARNING_RATE)


def stacked(bench: Bench) -> Iterator[Row]:
    """Clients with a small network in one pass of `torch.func`: images of all per second."""
    images, labels, _ = bench.pictures()
    spec, batch_size = bench.spec(bench.scale.small_network), bench.scale.batches[0]
    alone = Client(bench, bench.network(spec), images, labels, batch_size=batch_size,
                   precision="float32", layout="contiguous")  # fmt: skip
    yield {"how": "one after the other", "clients": 1} | alone.speed()
    for num in bench.scale.stacked:
        clients = StackedClients(partial(bench.network, spec), num, bench.device)

        def step(clients: StackedClients = clients, num: int = num) -> None:
            batch = torch.randint(len(labels), (num, batch_size), device=images.device)
            clients.step(spec.pixels.normalize(images[batch].float() / 255), labels[batch])

        yield {"how": "torch.func", "clients": num} | speed(bench, step, num * batch_size)


def repair(bench: Bench) -> Iterator[Row]:
    """Repairs by batch size and precision; larger batches take fewer steps: as many images."""
    spec, scale = bench.spec(), bench.scale
    for name, steps in (("dhbe", "iterations"), ("deep-sanitizer", "steps")):
        usual = scale.repair_steps or getattr(SANITIZERS[name], steps)
        for batch_size in scale.repair_batches:
            num = max(1, usual * scale.repair_batches[0] // batch_size)
            for precision in ("float32", "bfloat16"):
                how = {"batch_size": batch_size, "precision": precision, steps: num}
                asked = changed(SANITIZERS[name], **how)
                yield {"what": name} | how | _repaired(bench, asked, spec)


def _repaired(bench: Bench, sanitizer: Sanitizer, spec: ModelSpec) -> Row:
    """Return what a repair of a network with random weights takes."""
    suspect = bench.network(spec).eval()
    return bench.time(lambda: apply_sanitizer(sanitizer, suspect, spec))


def screening(bench: Bench) -> Iterator[Row]:
    """Attribution of a round's replies, by the images in one pass; and an inspection."""
    spec = bench.spec()
    sent = bench.network(spec).cpu().state_dict()
    replies = [Reply(node=node, arrays=_near(sent), num_examples=100.0)
               for node in range(1, bench.scale.replies + 1)]  # fmt: skip
    shown = ScreenedRound(number=2, sent=sent, replies=replies)
    for at_once in bench.scale.searched_at_once:
        screen: Screen = Attribution(search=DifferenceSearch(images_at_once=at_once))
        said: list[Verdict] = []

        def judge(screen: Screen = screen, said: list[Verdict] = said) -> None:
            torch.manual_seed(0)
            said.extend(screen.screen(shown, spec, device=bench.device).verdicts)

        row = {"what": "attribution", "images_at_once": at_once, "replies": len(replies)}
        row |= bench.time(judge)
        yield row | {"left_out": sum(each.weight == 0 for each in said)}
    suspect = bench.network(spec).eval()
    yield {"what": "trigger-search"} | bench.time(lambda: TriggerSearch().inspect(suspect, spec))


def _near(sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a reply: weights a hundredth of their spread away from those sent."""
    return {
        name: value + 0.01 * value.std(correction=0) * torch.randn_like(value)
        if value.is_floating_point()
        else value.clone()
        for name, value in sent.items()
    }


def faithful(bench: Bench) -> Iterator[Row]:
    """A few iterations of the paper's DHBE, and what its full number would take."""
    spec, scale, paper = bench.spec(), bench.scale, SANITIZERS["dhbe-faithful"]
    full: int = paper.iterations  # type: ignore[attr-defined]
    for precision in ("float32", "bfloat16"):

        def run(iterations: int, precision: str = precision) -> Row:
            return _repaired(
                bench,
                changed(
                    paper,
                    iterations=iterations,
                    precision=precision,
                    batch_size=scale.faithful_batch,
                ),
                spec,
            )

        run(1)  # what is done once, at first use
        each = run(2)["seconds"] / 2
        num = max(1, min(scale.faithful_iterations, int(scale.faithful_seconds / each)))
        row = run(num)
        hours = row["seconds"] / num * full / 3600
        yield {"precision": precision, "iterations": num, "of": full, "full_hours": hours} | row


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of what it says."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}"


SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Row]], float]] = {
    "training": (training, 70),
    "stacked": (stacked, 35),
    "repair": (repair, 120),
    "screening": (screening, 50),
    "faithful": (faithful, 75),
    "processes": (processes, 70),
    "compiled": (compiled, 55),
}
"""Each section with the seconds after which it is ended; all of them: below eight minutes."""
