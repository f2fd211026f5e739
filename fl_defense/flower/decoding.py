"""Arrays as a client sent them: decoded without trusting what they say of themselves."""

import io
import math

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray


def decode(array: Array, like: Array) -> NDArray[np.generic]:
    """Return an array's values; whatever it claims, no more is read than `like` would take.

    Raises:
        ValueError: if its shape or dtype differ from those of `like`, or its bytes are something
            else than they claim.
    """
    _match(array.dtype, tuple(array.shape), like)
    file = io.BytesIO(array.data)
    try:
        # The header is read first: numpy would allocate what it claims, or open a zip archive.
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise ValueError("cannot be decoded (no header of an array)") from error
    _match(str(dtype), shape, like)
    if len(array.data) - file.tell() != dtype.itemsize * math.prod(shape):
        raise ValueError("cannot be decoded (its bytes do not fill its shape)")
    return array.numpy()


def _match(dtype: str, shape: tuple[int, ...], like: Array) -> None:
    if (dtype, shape) != (like.dtype, tuple(like.shape)):
        cure = "; send weights in the dtype in which they came" if dtype != like.dtype else ""
        wanted = f"must be {like.dtype}{list(like.shape)}"
        raise ValueError(f"{wanted}, got {dtype}{list(shape)}{cure}")
