"""Model files from anybody: each is written by one function, and none can be used."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from simulations.models.small_cnn import SmallCNN

FORM = ("--model", "{name: small-cnn, width: 2}", "--input-shape", "1,8,8", "--classes", "3")
Write = Callable[[Path], None]


def weights(seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallCNN(width=2).build((1, 8, 8), 3).state_dict()


FIRST = next(iter(weights()))


class Calls:
    """Pickles as a call of a function: what runs code when a file is loaded carelessly."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def torch_bytes(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def raw(content: bytes) -> Write:
    return lambda path: path.write_bytes(content) and None


def torch_file(make: Callable[[], object], **options: Any) -> Write:
    return lambda path: raw(torch_bytes(make(), **options))(path)


def with_weight(change: Callable[[Tensor], Any]) -> Write:
    """The right names with one value changed."""
    return torch_file(lambda: {**weights(), FIRST: change(weights()[FIRST])})


def rezipped(change: Callable[[str, bytes], bytes | None], compress: int = 0) -> Write:
    """A good archive with its members changed or left out."""

    def write(path: Path) -> None:
        with (
            zipfile.ZipFile(io.BytesIO(torch_bytes(weights()))) as good,
            zipfile.ZipFile(path, "w", compress) as bad,
        ):
            for name in good.namelist():
                content = change(name, good.read(name))
                if content is not None:
                    bad.writestr(name, content)

    return write


def with_pickle(content: bytes) -> Write:
    return rezipped(lambda name, old: content if name.endswith("data.pkl") else old)


def bomb(path: Path) -> None:
    """30 MB of zeros in 30 kB."""
    with (
        zipfile.ZipFile(io.BytesIO(torch_bytes(weights()))) as good,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            if name.endswith("/data/0"):
                with bad.open(name, "w") as member:
                    for _ in range(30):
                        member.write(bytes(2**20))
            else:
                bad.writestr(name, good.read(name))


def overlapping(path: Path) -> None:
    """Many names for the same bytes, as in bombs that are not packed."""
    rezipped(lambda name, old: old)(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as good:
        start, end = good.start_dir, content.rindex(b"PK\x05\x06")
        count = len(good.infolist())
    entries = content[start:end] * 50
    tail = bytearray(content[end:])
    tail[8:12] = (count * 50).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    path.write_bytes(content[:start] + entries + tail)


def safetensors_raw(header: object, data: bytes = b"", length: int | None = None) -> Write:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return raw((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def safetensors_with(name: str, value: Callable[[Tensor], Tensor]) -> Write:
    return lambda path: save_file({**weights(), name: value(weights()[FIRST])}, path)


def marked(path: Path) -> str:
    """Return the folder that appears if code of the file runs."""
    return str(path.with_name("made"))


def runs_code(path: Path) -> None:
    path.write_bytes(torch_bytes({**weights(), "x": Calls(os.mkdir, marked(path))}))


def runs_code_in_a_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"x": Calls(os.mkdir, marked(path))}))


def runs_code_in_the_old_format(path: Path) -> None:
    content = {**weights(), "x": Calls(os.mkdir, marked(path))}
    path.write_bytes(torch_bytes(content, _use_new_zipfile_serialization=False))


def runs_code_by_build(path: Path) -> None:
    with_pickle(b"\x80\x02cos\nsystem\n)\x81}X\x01\x00\x00\x00xX\x01\x00\x00\x00ysb.")(path)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def quiet(make: Callable[[], object]) -> Callable[[], object]:
    def silent() -> object:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return silent


GOOD = torch_bytes(weights())
OLD = torch_bytes(weights(), _use_new_zipfile_serialization=False)
SAFE = save(weights())
HALF = 512
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

TORCH: dict[str, Write] = {
    "nothing": raw(b""),
    "one byte": raw(b"\x80"),
    "text": raw(b"hello\n"),
    "json": raw(b'{"weight": [1, 2]}'),
    "a safetensors file": raw(SAFE),
    "zeros": raw(bytes(4096)),
    "PK and text": raw(b"PK\x03\x04 this is no model"),
    "an empty archive": raw(b"PK\x05\x06" + bytes(18)),
    **{f"cut off at {at}": raw(GOOD[:at]) for at in (3, 60, HALF, len(GOOD) // 2, len(GOOD) - 1)},
    **{f"old format cut off at {at}": raw(OLD[:at]) for at in (2, 20, 200, len(OLD) - 9)},
    "one byte changed": raw(GOOD[:70] + bytes([GOOD[70] ^ 255]) + GOOD[71:]),
    "rubbish behind": raw(GOOD[: len(GOOD) // 2] + b"\xff" * 600),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": a_link_to_itself,
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    "a bomb": bomb,
    "packed": rezipped(lambda name, old: old, zipfile.ZIP_DEFLATED),
    "overlapping": overlapping,
    "without a pickle": rezipped(lambda name, old: None if name.endswith(".pkl") else old),
    "without values": rezipped(lambda name, old: None if "/data/" in name else old),
    "with short values": rezipped(lambda name, old: old[:4] if "/data/" in name else old),
    "two pickles": lambda path: zipped_twice(path),
    "an empty pickle": with_pickle(b""),
    "a text as pickle": with_pickle(b"hello"),
    "a huge place in the memo": with_pickle(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a pickle of depth": with_pickle(b"\x80\x02" + b"(" * 5000 + b"l" * 5000 + b"."),
    "a bytearray of a terabyte": torch_file(lambda: {"x": Calls(bytearray, 2**40)}),
    "a tensor made by a call": torch_file(lambda: {"x": Calls(torch.Tensor, 2**38)}),
    "an evaluated text": torch_file(lambda: {"x": Calls(eval, "1")}),
    "runs code": runs_code,
    "runs code in a plain pickle": runs_code_in_a_plain_pickle,
    "runs code in the old format": runs_code_in_the_old_format,
    "runs code by build": runs_code_by_build,
    "by STACK_GLOBAL": with_pickle(b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x01x\x85R."),
    "by INST": with_pickle(b"(S'made'\nios\nmkdir\n."),
    "by EXT1": with_pickle(b"\x80\x02\x82\x01."),
    "a whole model": torch_file(lambda: SmallCNN(width=2).build((1, 8, 8), 3)),
    "a list": torch_file(lambda: [1, 2]),
    "a number": torch_file(lambda: 3),
    "a tensor": torch_file(lambda: torch.ones(3)),
    "an empty dict": torch_file(dict),
    "numbers by name": torch_file(lambda: dict.fromkeys(weights(), 3)),
    "two state dicts": torch_file(lambda: {"a": weights(), "b": weights()}),
    "keys that are no text": torch_file(lambda: {1: torch.ones(2), 2: torch.ones(2)}),
    "names that are markup": torch_file(lambda: {"[red]x[/red]": torch.ones(2)}),
    "names of several lines": torch_file(lambda: {"a\nb\r\x1b[31mc": torch.ones(2)}),
    "a name of a megabyte": torch_file(lambda: {"x" * 10**6: torch.ones(2)}),
    "a thousand names": torch_file(lambda: {f"x{i}": torch.ones(1) for i in range(1000)}),
    "sparse": with_weight(lambda value: value.to_sparse()),
    "quantized": with_weight(
        lambda value: quiet(lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8))()
    ),
    "without a device": with_weight(lambda value: value.to("meta")),
    "complex": with_weight(lambda value: value.to(torch.complex64)),
    "float8": with_weight(lambda value: value.to(torch.float8_e4m3fn)),
    "unsigned 16": with_weight(lambda value: value.to(torch.uint16)),
    "zero-sized": with_weight(lambda value: value[:0]),
    "another shape": with_weight(lambda value: value[None]),
    "ten to the twelve elements in four bytes": with_weight(
        lambda value: torch.zeros(1).expand(10**12)
    ),
    "text as weight": with_weight(lambda value: "hello"),
    "nan": with_weight(lambda value: value * float("nan")),
    "infinite": with_weight(lambda value: value + float("inf")),
    "too large": torch_file(
        lambda: {key: value * 1e30 if value.is_floating_point() else value
                 for key, value in weights().items()}
    ),
    "negative variances": torch_file(
        lambda: {key: value - 2 if key.endswith("running_var") else value
                 for key, value in weights().items()}
    ),
    "a name less": torch_file(lambda: {k: v for k, v in weights().items() if k != FIRST}),
    "a name more": torch_file(lambda: {**weights(), "more": torch.ones(1)}),
    "ordered and nested": torch_file(lambda: OrderedDict(a=OrderedDict(b=weights()))),
}  # fmt: skip

SAFETENSORS: dict[str, Write] = {
    "nothing": raw(b""),
    "text": raw(b"hello, this is text\n"),
    "a torch file": raw(GOOD),
    "seven bytes": raw(bytes(7)),
    "a header of a terabyte": safetensors_raw({}, length=2**40),
    "a negative header": raw(b"\xff" * 8 + b"{}"),
    "a header that is no json": safetensors_raw(b"{hello}"),
    "a header that is a list": safetensors_raw([1]),
    "a header of depth": safetensors_raw(b"[" * 100_000),
    "values behind the end": safetensors_raw({"x": {**TENSOR, "data_offsets": [0, 2**40]}}),
    "values before the beginning": safetensors_raw({"x": {**TENSOR, "data_offsets": [-8, 0]}}),
    "overlapping values": safetensors_raw({"x": TENSOR, "y": TENSOR}, bytes(8)),
    "another shape than values": safetensors_raw({"x": {**TENSOR, "shape": [2**62]}}, bytes(8)),
    "a shape that overflows": safetensors_raw({"x": {**TENSOR, "shape": [2**33] * 3}}, bytes(8)),
    "an unknown dtype": safetensors_raw({"x": {**TENSOR, "dtype": "F31"}}, bytes(8)),
    "rubbish behind": raw(SAFE + b"more"),
    "cut off": raw(SAFE[:-3]),
    "no tensors": lambda path: save_file({}, path),
    "names of several lines": safetensors_raw({"a\nb": TENSOR}, bytes(8)),
    "float8": safetensors_with(FIRST, lambda value: value.to(torch.float8_e5m2)),
    "nan": safetensors_with(FIRST, lambda value: value * float("nan")),
    "another shape": safetensors_with(FIRST, lambda value: value[None].contiguous()),
    "zero-sized": safetensors_with(FIRST, lambda value: value[:0]),
    "a name more": safetensors_with("more", lambda value: value),
}


def zipped_twice(path: Path) -> None:
    rezipped(lambda name, old: old)(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more/data.pkl", b"\x80\x02}.")


def model_files() -> Iterator[tuple[str, str, Write]]:
    """Yield a name, a suffix and what writes the file."""
    yield from ((name, ".pt", write) for name, write in TORCH.items())
    yield from ((name, ".safetensors", write) for name, write in SAFETENSORS.items())
