"""PyTorch's files, looked at before PyTorch reads them: how large they become and what they make.

`torch.load(weights_only=True)` runs no code, but 2 MB of a packed archive become gigabytes, and a
pickle of forty bytes asks for as many more. PyTorch itself packs nothing and needs few names.
"""

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

MAX_MEMBERS = 200_000
"""Files in an archive; a network has one for each tensor."""
MAX_PICKLE = 64 * 2**20
"""Bytes of the pickle that says what the tensors are; a large network has some 100 kB."""

_STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble"
_DTYPES = (
    "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool uint16 uint32 uint64 "
    "complex64 complex128"
)
KNOWN = frozenset(
    {
        *("collections OrderedDict", "torch Size", "torch device", "torch._utils _rebuild_tensor"),
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
        *("torch._utils _rebuild_parameter", "torch.storage UntypedStorage"),
        *("torch.storage TypedStorage", "torch.nn.parameter Parameter"),
        *(f"torch {kind}Storage" for kind in _STORAGES.split()),
        *(f"torch {kind}" for kind in _DTYPES.split()),
    }
)
"""All that a file of dense tensors, numbers, text and containers names."""
EXOTIC = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
}
"""What PyTorch reads and no network here takes."""

MORE = (
    "holds more than weights, which could run code when loaded; "
    "save model.state_dict() instead of the model"
)


class ArchiveError(ValueError):
    """A file must not be read; the message is the reason, one line without the file's name."""


def check_torch_file(path: Path) -> None:
    """Refuse a file that `torch.load` must not be given.

    Raises:
        ArchiveError: if it is no file of PyTorch, becomes larger than it is, or makes anything but
            dense tensors, numbers, text and containers.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        check_torch_archive(file, path.stat().st_size)


def check_torch_archive(file: BinaryIO, size: int) -> None:
    """Refuse what `check_torch_file` refuses, of an open file of so many bytes.

    Raises:
        ArchiveError: as there.
        OSError: if it cannot be read.

    >>> check_torch_archive(io.BytesIO(b"hello"), 5)
    Traceback (most recent call last):
    ...
    fl_defense.model.archives.ArchiveError: is no file that torch.save wrote
    """
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        _check_zip(file, size)
    elif start[:1] == b"\x80":
        # Before PyTorch 1.6: pickles one after the other, then the bytes of the tensors.
        for _ in range(5):
            _check_pickle(file)
    else:
        raise ArchiveError("is no file that torch.save wrote")


def _check_zip(file: BinaryIO, size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise ArchiveError(f"holds {len(members)} files, more than {MAX_MEMBERS}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ArchiveError(
                    "is a packed archive, which may become any size; write it with torch.save"
                )
            if (whole := sum(member.file_size for member in members)) > size:
                raise ArchiveError(f"has {size} bytes, but says that it holds {whole}")
            pickles = [each for each in members if each.filename.endswith("data.pkl")]
            if len(pickles) != 1:
                raise ArchiveError("is an archive, but none that torch.save wrote")
            if pickles[0].file_size > MAX_PICKLE:
                raise ArchiveError(f"holds a pickle of more than {MAX_PICKLE} bytes")
            _check_pickle(io.BytesIO(archive.read(pickles[0])))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"is a damaged archive ({error})") from error


def _check_pickle(file: BinaryIO) -> None:
    """Refuse names that tensors do not need, and numbers of places that memory is made for."""
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            count += 1
            if opcode.name == "GLOBAL" and argument not in KNOWN:
                name = str(argument).rpartition(" ")[2]
                raise ArchiveError(
                    f"holds {EXOTIC[name]}; save dense ones" if name in EXOTIC else MORE
                )
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise ArchiveError(MORE)
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
                raise ArchiveError("holds a damaged pickle")
    except ArchiveError:
        raise
    except Exception as error:  # anything may come out of anybody's bytes
        raise ArchiveError("holds a damaged pickle") from error
