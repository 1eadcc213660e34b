"""Tensors of the KServe protocol, version 2, as bytes: the same in gRPC's messages and in HTTP's binary bodies."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"FP32": "<f4", "INT32": "<i4", "INT64": "<i8", "UINT8": "|u1"}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_LENGTH_BYTES = 4


class Answer:
    """The outputs of one answer, by name."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self._outputs = outputs

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """Return an output; None if the answer has none of this name."""
        return self._outputs.get(name)


def datatype_of(values: NDArray[Any]) -> str:
    """Return the protocol's name for the type of `values`, such as INT64."""
    return _NAMES[values.dtype]


def to_bytes(values: NDArray[Any]) -> bytes:
    """Return `values` row by row, little-endian."""
    return np.ascontiguousarray(values, dtype=_TYPES[datatype_of(values)]).tobytes()


def from_bytes(datatype: str, shape: Sequence[int], content: bytes) -> NDArray[Any]:
    """Return what `to_bytes` was given; BYTES as an array of objects.

    Raises:
        ValueError: the type is not known, or the bytes are not those of this shape.
    """
    if datatype == "BYTES":
        return np.array(_split(content, prod(shape)), dtype=object).reshape(shape)
    if datatype not in _TYPES:
        raise ValueError(f"type {datatype} is not known")
    return np.frombuffer(content, dtype=_TYPES[datatype]).reshape(shape)


def _split(content: bytes, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor, each of which follows its length."""
    found, start = [], 0
    for _ in range(count):
        length = int.from_bytes(content[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES
        if start + length > len(content):
            break
        found.append(content[start : start + length])
        start += length
    if len(found) != count or start != len(content):
        raise ValueError(f"{len(content)} bytes are not {count} elements")
    return found
