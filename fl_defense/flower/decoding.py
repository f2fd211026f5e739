"""Arrays as a client sent them: decoded without trusting what they say of themselves."""

import io
import math

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray


def decode(array: Array, like: Array) -> NDArray[np.generic]:
    """Return an array's values; whatever it claims, no more is read than `like` would take.

    A view of the bytes that cannot be written to: nothing is copied.

    Raises:
        ValueError: if its shape or dtype differ from those of `like`, or its bytes are something
            else than they claim.
    """
    _match(array.dtype, tuple(array.shape), like)
    if array.stype != like.stype:
        raise ValueError(f"cannot be decoded (stored as {str(array.stype)[:40]!r})")
    file = io.BytesIO(array.data)
    try:
        # The header is read first: numpy would allocate what it claims, or open a zip archive.
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, is_fortran, dtype = read_header(file)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise ValueError("cannot be decoded (no header of an array)") from error
    _match(str(dtype), shape, like)
    if len(array.data) - file.tell() != dtype.itemsize * math.prod(shape):
        raise ValueError("cannot be decoded (its bytes do not fill its shape)")
    if 0 in shape:
        return np.empty(shape, dtype)
    values = np.frombuffer(array.data, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if is_fortran else "C")


def _match(dtype: str, shape: tuple[int, ...], like: Array) -> None:
    if (dtype, shape) != (like.dtype, tuple(like.shape)):
        cure = "; send weights in the dtype in which they came" if dtype != like.dtype else ""
        wanted = f"must be {like.dtype}{list(like.shape)}"
        raise ValueError(f"{wanted}, got {dtype}{list(shape)}{cure}")
