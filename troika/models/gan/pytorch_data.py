"""Batches of the training split on the device: small sets live there as bytes, large ones are read ahead."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from troika.datasets.contract import Split
from troika.models.gan.batches import Indices

_SHARE_OF_GPU = 0.25
_ON_CPU = 2**30
"""Bytes of images that are kept in memory; more stay where they are and are read batch by batch."""
_Bytes = tuple[Tensor, Tensor]


def image_bytes(split: Split) -> int:
    """Of all its images."""
    return len(split) * int(np.prod(split.images.shape[1:]))


def stays(split: Split, device: torch.device) -> bool:
    """Whether all images fit on the device beside the training."""
    room = _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _ON_CPU
    return image_bytes(split) <= room


class Feed:
    """Images float32 (B, C, H, W) in -1..1 and labels int64 (B,) for indices into a split."""

    def __init__(self, split: Split, device: torch.device, layout: torch.memory_format) -> None:
        self._split = split
        self._device = device
        self._layout = layout
        self.resident = stays(split, device)
        """Whether all images are on the device."""
        if self.resident:
            self._images, self._labels = self._read(slice(None))
            self._images, self._labels = self._images.to(device), self._labels.to(device)
        else:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="troika-feed")
            self._ahead: tuple[Indices, Future[_Bytes]] | None = None

    def announce(self, indices: Indices) -> None:
        """Say which images are asked for next, so that they may be read meanwhile."""
        if not self.resident:
            self._ahead = (indices, self._reader.submit(self._read, indices))

    def __call__(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The batch; shapes: see the class."""
        if self.resident:
            chosen = torch.from_numpy(indices).to(self._device, non_blocking=True)
            images, labels = self._images.index_select(0, chosen), self._labels.index_select(0, chosen)
        else:
            images, labels = self._announced(indices) or self._read(indices)
            images = images.to(self._device, non_blocking=True)
            labels = labels.to(self._device, non_blocking=True)
        # Bytes in (N, H, W, C) are (N, C, H, W) in channels-last order: nothing is copied.
        floats = images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        return floats.contiguous(memory_format=self._layout), labels

    def close(self) -> None:
        """End reading ahead."""
        if not self.resident:
            self._reader.shutdown(cancel_futures=True)

    def _announced(self, indices: Indices) -> _Bytes | None:
        if self._ahead is None:
            return None
        announced, future = self._ahead
        self._ahead = None
        return future.result() if np.array_equal(announced, indices) else None

    def _read(self, indices: Indices | slice) -> _Bytes:
        images = torch.from_numpy(np.array(self._split.images[indices]))
        labels = torch.from_numpy(np.array(self._split.labels[indices]))
        if self._device.type == "cuda":
            return images.pin_memory(), labels.pin_memory()
        return images, labels
