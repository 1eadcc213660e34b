"""Draw latents from seeds: the reference of the sampler that export.py also builds into every ONNX graph.

For a seed s in 0..2^63-1, with all integer arithmetic modulo 2^64, and for i = 0, 1, 2, ...:

    mix64(v):  v = (v xor (v >> 30)) * 0xBF58476D1CE4E5B9
               v = (v xor (v >> 27)) * 0x94D049BB133111EB
               v xor (v >> 31)                                    (>> fills with zeros)
    x(j)        = mix64(s + (j + 1) * 0x9E3779B97F4A7C15)         splitmix64's j-th output, j = 0, 1, 2, ...
    u(i)        = ((x(2i) >> 11) + 1) * 2^-53                     in 2^-53 .. 1, so its logarithm is finite
    v(i)        = (x(2i+1) >> 11) * 2^-53                         in 0 .. 1 - 2^-53
    radius(i)   = sqrt(-2 * log(u(i)))                            float64 from here on
    angle(i)    = 6.283185307179586 * v(i)
    latent[2i]   = float32(radius(i) * cos(angle(i)))
    latent[2i+1] = float32(radius(i) * sin(angle(i)))

An odd latent size drops the last value. A latent depends on its seed alone, never on the batch around it; a
smaller latent size gives a prefix of a larger one. The integers are the same in every language; log, cos and
sin may differ in the last bit of a float64 between mathematical libraries, which the rounding to float32
hides but for about one value in 10^7 (that one differs in its last bit). Test vectors:
tests/models/latents_vectors.json.

Sources: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators" (2014), with the
constants of S. Vigna's splitmix64.c; G. Box, M. Muller, "A note on the generation of random normal deviates"
(1958).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from troika.errors import ParameterError
from troika.models.contract import Latents

SEED_MAX = 2**63 - 1
GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
TWO_PI = 6.283185307179586


def draw_latents(seeds: Sequence[int] | NDArray[np.int64], latent_size: int) -> Latents:
    """Standard normal latents float32 (N, latent_size), one row per seed.

    Args:
        seeds: N whole numbers in 0..2^63-1.
        latent_size: values per latent, at least 1.

    Raises:
        ParameterError: a seed is not a whole number in 0..2^63-1, or the size is below 1.
    """
    if latent_size < 1:
        raise ParameterError(f"latent_size: {latent_size} is too small; at least 1")
    start = check_seeds(seeds).astype(np.uint64)[:, None]
    pairs = (latent_size + 1) // 2
    offsets = np.array([(j + 1) * GAMMA % 2**64 for j in range(2 * pairs)], dtype=np.uint64)
    bits = mix64(start + offsets) >> np.uint64(11)
    first, second = bits[:, 0::2], bits[:, 1::2]
    radius = np.sqrt(-2.0 * np.log((first + np.uint64(1)).astype(np.float64) * 2.0**-53))
    angle = TWO_PI * (second.astype(np.float64) * 2.0**-53)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    latents: Latents = both.reshape(len(start), 2 * pairs)[:, :latent_size].astype(np.float32)
    return latents


def check_seeds(seeds: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Seeds as int64 (N,).

    Raises:
        ParameterError: one of them is not a whole number in 0..2^63-1.
    """
    # Through a list, since numpy would turn a mixture of small and too large integers into floats.
    values = seeds.tolist() if isinstance(seeds, np.ndarray) else list(seeds)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ParameterError(f"seed: {value!r} is not a whole number; give one in 0..{SEED_MAX}")
        if not 0 <= value <= SEED_MAX:
            raise ParameterError(f"seed: {value} is out of range; give a whole number in 0..{SEED_MAX}")
    return np.array(values, dtype=np.int64)


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's bijection of 64-bit integers, element by element."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX_2)
    return values ^ (values >> np.uint64(31))
