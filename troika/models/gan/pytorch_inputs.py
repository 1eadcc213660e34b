"""A step's numbers on their way to the device.

On a GPU they always lie at the same place, where a CUDA graph finds them again, and travel in one message from
pinned memory, so that the host need not wait. On a CPU they stay where they are.
"""

import itertools
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

Field = tuple[tuple[int, ...], DTypeLike]
"""Shape and type of an array."""
_UNDER_WAY = 8
"""Messages at most; each has memory of its own, which must not change before it has been read."""
_ALIGNED = 16
"""Bytes."""


class Inputs:
    """Arrays by name, as tensors on the device."""

    def __init__(self, device: torch.device, fields: Mapping[str, Field]) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._on_gpu = device.type == "cuda"
        if not self._on_gpu:
            return
        places, size = lay_out(fields)
        self._bytes = torch.zeros(size, dtype=torch.uint8, device=device)
        for name, (shape, kind) in fields.items():
            as_torch = torch.from_numpy(np.empty(0, kind)).dtype
            self._tensors[name] = self._bytes[places[name]].view(as_torch).view(shape)
        self._messages = itertools.cycle([_Message(fields, places, size) for _ in range(_UNDER_WAY)])

    def put(self, **arrays: NDArray[Any]) -> None:
        """Send arrays of the shapes announced."""
        if self._on_gpu:
            next(self._messages).send(arrays, self._bytes)
        else:
            self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def __getitem__(self, name: str) -> Tensor:
        """What was put there last."""
        return self._tensors[name]


class _Message:
    """Pinned memory of all arrays, and whether its last journey is over."""

    def __init__(self, fields: Mapping[str, Field], places: Mapping[str, slice], size: int) -> None:
        self._pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        content = self._pinned.numpy()
        self._arrays = {
            name: content[places[name]].view(kind).reshape(shape) for name, (shape, kind) in fields.items()
        }
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, arrays: Mapping[str, NDArray[Any]], to: Tensor) -> None:
        self._read.synchronize()
        for name, place in self._arrays.items():
            np.copyto(place, arrays[name], casting="equiv")
        to.copy_(self._pinned, non_blocking=True)
        self._read.record()


def lay_out(fields: Mapping[str, Field]) -> tuple[dict[str, slice], int]:
    """Which bytes of a message are an array's, and how many it has."""
    places, end = dict[str, slice](), 0
    for name, (shape, kind) in fields.items():
        size = prod(shape) * np.dtype(kind).itemsize
        places[name] = slice(end, end + size)
        end += -(-size // _ALIGNED) * _ALIGNED
    return places, end
