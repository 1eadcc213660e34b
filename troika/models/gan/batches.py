"""Which images and which latents belong to a step, from nothing but the seed and the step's number.

So there is no random state to save: a run that was killed continues with exactly the draws that it would have
made. And every framework, and every process of several, sees the same ones. Knows no framework.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """A seed in 0..2^63-1 for one purpose and number, unrelated to its neighbours'."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def latents_of_step(seed: int, step: int, count: int, size: int) -> NDArray[np.float32]:
    """Standard normal latents (count, size) of step 0, 1, 2, ..."""
    random = np.random.Generator(np.random.SFC64(derive_seed(seed, "latents", step)))
    return random.standard_normal((count, size), np.float32)


class Order:
    """Batches by step number: one shuffled pass over the images after another, without a gap between them.

    A batch may be larger than the split; it then holds images more than once.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> Indices:
        """Which images, of `count`, are in the batch of step 0, 1, 2, ...: (batch_size,)."""
        start, left = step * self._batch_size, self._batch_size
        parts = []
        while left:
            epoch, offset = divmod(start, self._count)
            if epoch != self._epoch:
                generator = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
                self._epoch, self._order = epoch, generator.permutation(self._count)
            parts.append(self._order[offset : offset + left])
            start, left = start + len(parts[-1]), left - len(parts[-1])
        return np.concatenate(parts)


def dropout_bits(seed: int, step: int, passes: int, count: int, values: int) -> NDArray[np.uint16]:
    """Random bits (passes, count, values) of step 0, 1, 2, ... that decide what dropout drops.

    Numpy draws them many times as fast as PyTorch's CPU kernel or XLA does; raw numbers are its fastest.
    """
    random = np.random.SFC64(derive_seed(seed, "dropout", step))
    size = passes * count * values
    return random.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(passes, count, values)


def shares_of_step(seed: int, step: int, count: int) -> NDArray[np.float32]:
    """Uniform numbers in 0..1 (count,) of step 0, 1, 2, ...: where between real and generated WGAN-GP looks."""
    random = np.random.Generator(np.random.SFC64(derive_seed(seed, "shares", step)))
    return random.random(count, np.float32)
