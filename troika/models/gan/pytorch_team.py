"""Several PyTorch processes that train one model together, as torchrun starts them: one GPU or core each.

Gradients are averaged in one message for each network and step. Not by DistributedDataParallel: that hooks into
the backward pass, and gradient penalties go through it twice.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from troika.models.gan.backend import Alone
from troika.models.gan.figures import Rows

_Value = TypeVar("_Value")


class Together:
    """The processes of a group; see Team."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def from_first(self, value: _Value) -> _Value:
        """See Team."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self._device)
        return values[0]

    def any(self, flag: bool) -> bool:
        """See Team."""
        sum_of_flags = torch.tensor(int(flag), device=self._device)
        dist.all_reduce(sum_of_flags)
        return bool(sum_of_flags)

    def mean(self, rows: Rows) -> Rows:
        """See Team."""
        summed = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
        dist.all_reduce(summed)
        averaged: Rows = (summed / self.size).cpu().numpy()
        return averaged

    def average_gradients(self, gradients: list[Tensor]) -> None:
        """Replace gradients by their mean over the processes."""
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, averaged in zip(
            gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True
        ):
            gradient.copy_(averaged.view_as(gradient))


@contextmanager
def join_team(device: torch.device) -> Iterator[Alone | Together]:
    """Inside the block this process is one of those that torchrun has started, or alone."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Together(device)
    finally:
        dist.destroy_process_group()
