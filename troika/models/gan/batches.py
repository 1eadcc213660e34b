"""Which random numbers and which images belong to a step, from nothing but the seed and the step's number.

So there is no random state to save: a run that was killed continues with exactly the draws that it would have
made.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from troika.datasets.contract import Split


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """A seed in 0..2^63-1 for one purpose and number, unrelated to its neighbours'."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Batches:
    """Batches by step number: one shuffled pass over the split after another, without a gap between them.

    A batch may be larger than the split; it then holds images more than once.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, device: torch.device) -> None:
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 (B, C, H, W) in -1..1 and labels int64 (B,) of step 0, 1, 2, ..."""
        chosen = self._indices(step * self._batch_size, self._batch_size)
        images = torch.from_numpy(self._split.images[chosen]).to(self._device)
        labels = torch.from_numpy(self._split.labels[chosen]).to(self._device)
        return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0), labels

    def _indices(self, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        parts = []
        while count:
            epoch, offset = divmod(start, len(self._split))
            if epoch != self._epoch:
                generator = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
                self._epoch, self._order = epoch, generator.permutation(len(self._split))
            parts.append(self._order[offset : offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)
