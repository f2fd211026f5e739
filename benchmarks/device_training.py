"""What clients train in a second on a device: alone, side by side, and several in one pass."""

import copy
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from benchmarks.device_bench import Bench, Row, speed
from fl_defense.model.precision import Precision
from simulations.data import CIFAR10
from simulations.training.augmentation import augment

Layout = Literal["contiguous", "channels-last"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
LEARNING_RATE = 0.01
MOMENTUM = 0.9
PATIENCE = 60.0
"""Seconds that one process waits for the others."""


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
