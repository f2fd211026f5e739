"""Memory that processes share, and values that pass through it without being copied into a pipe."""

import io
import mmap
import os
import pickle
import sys
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, Self

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes: begins of tensors are multiples of it."""
LONG = 512
"""Bytes: what is longer passes through shared memory."""
Place = tuple[str, int, int]
"""Where bytes lie: the memory's name, offset, length."""


class SharedMemory:
    """Bytes that this process and those that it starts both see.

    They belong to nobody's folder: with the last process that holds them they are gone, however it
    ends. `/dev/shm` is not used, for containers keep it small.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self._descriptor = _anonymous_file(size) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        self.size = size
        self.view = memoryview(mmap.mmap(self._descriptor, max(1, size)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand over the descriptor, not the bytes: works only on the way to another process."""
        return _attach, (self.size, reduction.DupFd(self._descriptor))


def _attach(size: int, descriptor: Any) -> SharedMemory:
    return SharedMemory(size, descriptor.detach())


def _anonymous_file(size: int) -> int:
    """Return the descriptor of a file that has no name."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("fl-defense")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, max(1, size))
    return descriptor


@dataclass(frozen=True, kw_only=True)
class SharedTensors:
    """Tensors side by side in shared memory.

    Example:
        >>> images = torch.tensor([[1, 2]], dtype=torch.uint8)
        >>> shared = SharedTensors.move({"images": images})
        >>> images.fill_(3), shared.tensors()["images"].tolist()
        (tensor([[3, 3]], dtype=torch.uint8), [[3, 3]])
    """

    memory: SharedMemory
    layout: Mapping[str, tuple[int, torch.dtype, torch.Size]]
    """Offset, type and shape by name."""

    @classmethod
    def move(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Move whole tensors into shared memory, as `Tensor.share_memory_` does."""
        layout, size = {}, 0
        for name, tensor in tensors.items():
            layout[name] = (size, tensor.dtype, tensor.shape)
            size += -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED
        shared = cls(memory=SharedMemory(size), layout=layout)
        for name, view in shared.tensors().items():
            tensors[name].data = view.copy_(tensors[name])
        return shared

    def tensors(self) -> dict[str, Tensor]:
        """Return views of the shared memory: who writes into one writes for all processes."""
        return {
            name: torch.frombuffer(
                self.memory.view, dtype=dtype, count=shape.numel(), offset=offset
            ).view(shape)
            for name, (offset, dtype, shape) in self.layout.items()
        }


class Outbox:
    """The sending end of a shared memory: pickles values, and puts their long bytes there.

    Args:
        name: by which the receiving end knows the memory.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.memory = SharedMemory(0)
        """Another one whenever this is too small."""

    def put(self, chunks: Iterable[bytes]) -> dict[int, Place]:
        """Lay bytes out in the memory, in the place of what was there; return places by `id`."""
        layout = _Layout(self._name)
        for chunk in chunks:
            layout.place(chunk)
        self._write(layout)
        return layout.places

    def pack(self, value: Any, elsewhere: Mapping[int, Place] | None = None) -> bytes:
        """Pickle a value.

        Args:
            value: anything; its long bytes go into the memory, in the place of what was there.
            elsewhere: bytes by `id` that lie in shared memory already.
        """
        layout, file = _Layout(self._name), io.BytesIO()
        _Pickler(file, layout, elsewhere or {}).dump(value)
        self._write(layout)
        return file.getvalue()

    def _write(self, layout: "_Layout") -> None:
        if layout.size > self.memory.size:
            self.memory = SharedMemory(layout.size)
        offset = 0
        for chunk in layout.chunks:
            self.memory.view[offset : offset + len(chunk)] = chunk
            offset += len(chunk)


class _Layout:
    """Which bytes are to lie where; the same bytes lie there once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.places: dict[int, Place] = {}
        self.chunks: list[bytes] = []
        self.size = 0

    def place(self, chunk: bytes) -> Place:
        if id(chunk) not in self.places:
            self.places[id(chunk)] = (self._name, self.size, len(chunk))
            self.chunks.append(chunk)
            self.size += len(chunk)
        return self.places[id(chunk)]


class _Pickler(pickle.Pickler):
    """Writes places for long bytes."""

    def __init__(self, file: io.BytesIO, layout: _Layout, elsewhere: Mapping[int, Place]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._layout, self._elsewhere = layout, elsewhere

    def persistent_id(self, value: Any) -> Place | None:
        if type(value) is not bytes or len(value) <= LONG:
            return None
        return self._elsewhere.get(id(value)) or self._layout.place(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: bytes, memories: Mapping[str, SharedMemory]) -> None:
        super().__init__(io.BytesIO(packed))
        self._memories = memories

    def persistent_load(self, place: Place) -> bytes:
        name, offset, length = place
        return bytes(self._memories[name].view[offset : offset + length])


def unpack(packed: bytes, memories: Mapping[str, SharedMemory]) -> Any:
    """Return a value that was packed; its bytes are copied out of the memories.

    Example:
        >>> outbox = Outbox("reply")
        >>> packed = outbox.pack({"weights": bytes(1000)})
        >>> len(packed) < 100, len(unpack(packed, {"reply": outbox.memory})["weights"])
        (True, 1000)
    """
    return _Unpickler(packed, memories).load()
