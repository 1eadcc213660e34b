"""Batches of the training split on the device: small sets live there as bytes, large ones are read ahead."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troika.datasets.contract import Split
from troika.models.gan.batches import Indices
from troika.models.gan.pytorch_inputs import Field, Inputs

_SHARE_OF_GPU = 0.25
_ON_CPU = 2**30
"""Bytes of images that are kept in memory; more stay where they are and are read batch by batch."""
_Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


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
        self._layout = layout
        self.resident = stays(split, device)
        """Whether all images are on the device."""
        if self.resident:
            images, labels = self._read(slice(None))
            self._images, self._labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        else:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="troika-feed")
            self._ahead: tuple[Indices, Future[_Arrays]] | None = None

    def announce(self, indices: Indices) -> None:
        """Say which images are asked for next, so that they may be read meanwhile."""
        if not self.resident:
            self._ahead = (indices, self._reader.submit(self._read, indices))

    def fields(self, batch_size: int) -> dict[str, Field]:
        """What the device must be sent for such a batch: names, shapes and types."""
        if self.resident:
            return {"indices": ((batch_size,), np.int64)}
        return {
            "images": ((batch_size, *self._split.images.shape[1:]), np.uint8),
            "labels": ((batch_size,), np.int64),
        }

    def arrays(self, indices: Indices) -> dict[str, NDArray[Any]]:
        """By these names, what is to be sent for the images at `indices`."""
        if self.resident:
            return {"indices": indices}
        images, labels = self._announced(indices) or self._read(indices)
        return {"images": images, "labels": labels}

    def batch(self, sent: Inputs) -> tuple[Tensor, Tensor]:
        """The batch; shapes: see the class."""
        if self.resident:
            chosen = sent["indices"]
            images, labels = self._images.index_select(0, chosen), self._labels.index_select(0, chosen)
        else:
            images, labels = sent["images"], sent["labels"]
        # Bytes in (N, H, W, C) are (N, C, H, W) in channels-last order: nothing is copied.
        floats = images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        return floats.contiguous(memory_format=self._layout), labels

    def close(self) -> None:
        """End reading ahead."""
        if not self.resident:
            self._reader.shutdown(cancel_futures=True)

    def _announced(self, indices: Indices) -> _Arrays | None:
        if self._ahead is None:
            return None
        announced, future = self._ahead
        self._ahead = None
        return future.result() if np.array_equal(announced, indices) else None

    def _read(self, indices: Indices | slice) -> _Arrays:
        return np.array(self._split.images[indices]), np.array(self._split.labels[indices])
