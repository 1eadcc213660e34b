"""Distances and intervals, on plain arrays. Knows nothing of models, datasets or limits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from troika.quality.rows import Floats, blocks, check_pair, check_rows

Counts = NDArray[np.int64]

_LARGE = 1e4


def labels_to_ask_for(held_out: Counts, size: int, rng: np.random.Generator) -> Counts:
    """Labels (size,) in random order with the class mix of the held-out ones (N,), as near as can be.

    Drawn one by one they would have a mix of their own, whose distance from the right one says nothing of a model.
    """
    classes, counts = np.unique(held_out, return_counts=True)
    exact = counts * size / len(held_out)
    asked = np.floor(exact).astype(np.int64)
    # Largest remainders first.
    asked[np.argsort(asked - exact, kind="stable")[: size - asked.sum()]] += 1
    return rng.permutation(np.repeat(classes, asked))


def frechet_distance(features: Floats, reference: Floats) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (N, D) and (M, D); >= 0, 0 = equal.

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Heusel et al. 2017 (arXiv 1706.08500). With S2 = L L^T, the
    trace of the root is that of the symmetric matrix L^T S1 L, so symmetric eigenvalues suffice: no matrix square
    root of a product, no complex numbers, finite for constant or too few features.

    Raises:
        ValueError: fewer than 2 rows on a side, different features, NaN or infinity.
    """
    check_pair("generated", features, "real", reference, 2)
    return distance_to(Moments.of(reference))(Moments.of(features))


def frechet_distance_at_infinity(batches: Sequence[Floats], reference: Floats) -> float:
    """What the Fréchet distance would be for infinitely many generated rows, >= 0.

    A straight line in 1/N through the distances of pools of 1, 2, 4, ... batches and of all of them (Chong and
    Forsyth 2020, arXiv 1911.07023); of each size, the mean over as many disjoint pools as there are. Only the
    bias of the generated side is gone: that of the finite reference stays, as in the floor of real against real.

    Args:
        batches: two or more fresh, independent batches of features (N, D), all of one size.
        reference: features (M, D).

    Raises:
        ValueError: fewer than 2 batches, batches of different sizes, or see `frechet_distance`.
    """
    if len(batches) < 2 or len({len(batch) for batch in batches}) > 1:
        raise ValueError(
            f"batches: at least 2 of one size are needed, not sizes {[len(batch) for batch in batches]}"
        )
    for number, batch in enumerate(batches):
        check_pair(f"generated batch {number}", batch, "real", reference, 2)
    distance = distance_to(Moments.of(reference))
    moments = [Moments.of(batch) for batch in batches]
    sizes = [2**power for power in range(len(batches).bit_length()) if 2**power < len(batches)] + [len(batches)]
    means = []
    for size in sizes:
        starts = range(0, len(batches) - size + 1, size)
        means.append(np.mean([distance(Moments.joined(moments[start : start + size])) for start in starts]))
    inverse = 1 / (np.array(sizes) * len(batches[0]))
    _slope, at_infinity = np.polyfit(inverse / inverse[0], np.array(means), 1)
    return max(float(at_infinity), 0.0)


def feature_scale(reference: Floats) -> float:
    """Trace of the covariance of features (M, D), M >= 2: the Fréchet distance of always the average row."""
    check_rows("real", reference, 2)
    return float(np.asarray(reference, np.float64).var(axis=0, ddof=1).sum())


def kernel_distance(features: Floats, reference: Floats) -> float:
    """Kernel distance between features (N, D) and (M, D), see `RealKernel`."""
    return RealKernel(reference).distance(features)


class RealKernel:
    """The real side of kernel distances (KID), whose own part is computed once for many sets of generated rows."""

    def __init__(self, reference: Floats) -> None:
        """Take features (M, D), M >= 2; a ValueError for fewer rows, NaN or infinity."""
        check_rows("real", reference, 2)
        self._reference = reference
        self._rows = _with_one(reference)
        self._among = _kernel_mean(self._rows)

    def distance(self, features: Floats) -> float:
        """Kernel distance of generated features (N, D): 0 in the mean for equal distributions, else > 0.

        Unbiased squared maximum mean discrepancy with kernel (x y / D + 1)^3, over whole sets, not random subsets
        (Bińkowski et al. 2018, arXiv 1801.01401). Since it is unbiased, it may lie a little below 0.

        Raises:
            ValueError: fewer than 2 rows, other features than the real ones, NaN or infinity.
        """
        check_pair("generated", features, "real", self._reference, 2)
        rows = _with_one(features)
        between = _kernel_sum(rows, self._rows) / (len(rows) * len(self._rows))
        return self._among + _kernel_mean(rows) - 2 * between


def _with_one(rows: Floats) -> Floats:
    """Rows (N, D + 1) whose products are x y / D + 1; float32 stays float32 where cubes of products have room."""
    kind = np.result_type(rows.dtype, np.float32 if np.abs(rows).max() < _LARGE else np.float64)
    scaled = rows.astype(kind) / kind.type(rows.shape[1] ** 0.5)
    wide: Floats = np.concatenate([scaled, np.ones((len(rows), 1), kind)], axis=1)
    return wide


def _sum_of_cubes(values: Floats) -> float:
    # Of each row in its own type, of all in float64: rounding of one long sum would be seen.
    return float(np.einsum("nm,nm,nm->n", values, values, values).sum(dtype=np.float64))


def _kernel_sum(one: Floats, other: Floats) -> float:
    return sum(_sum_of_cubes(one[part] @ other.T) for part in blocks(len(one), len(other)))


def _kernel_mean(rows: Floats) -> float:
    """Mean kernel of two different rows: above the diagonal, since it is symmetric."""
    total = 0.0
    for part in blocks(len(rows), len(rows)):
        total += _sum_of_cubes(rows[part] @ rows[part.stop :].T) if part.stop < len(rows) else 0.0
        total += _sum_of_cubes(np.triu(rows[part] @ rows[part].T, 1))
    return total / (len(rows) * (len(rows) - 1) / 2)


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), the covariance times count - 1."""

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Floats) -> "Moments":
        """Of rows (N, D)."""
        values = np.asarray(rows, np.float64)
        mean = values.mean(axis=0)
        values = values - mean
        return cls(len(values), mean, values.T @ values)

    @classmethod
    def joined(cls, parts: Sequence["Moments"]) -> "Moments":
        """Of all rows together (Chan et al. 1979)."""
        count = sum(part.count for part in parts)
        mean = sum((part.count / count * part.mean for part in parts), np.zeros_like(parts[0].mean))
        scatter = np.zeros_like(parts[0].scatter)
        for part in parts:
            gap = part.mean - mean
            scatter += part.scatter + part.count * np.outer(gap, gap)
        return cls(count, mean, scatter)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(D, D), unbiased."""
        return self.scatter / (self.count - 1)


def distance_to(reference: Moments) -> Callable[[Moments], float]:
    """The Fréchet distance of other moments to these, whose root is computed once."""
    covariance = reference.covariance
    root = _root(covariance)

    def distance(other: Moments) -> float:
        gap = other.mean - reference.mean
        product = np.linalg.eigvalsh(root.T @ other.covariance @ root)
        trace_of_root = np.sqrt(np.clip(product, 0, None)).sum()
        found = gap @ gap + np.trace(other.covariance) + np.trace(covariance) - 2 * trace_of_root
        return max(float(found), 0.0)

    return distance


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix L with L L^T = covariance (D, D)."""
    try:
        root: NDArray[np.float64] = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:  # some direction does not vary
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.clip(values, 0, None))
    return root


def total_variation(counts: Counts, reference: Counts) -> float:
    """Half the L1 distance between two class distributions given as counts (K,): 0 = equal, 1 = disjoint."""
    return float(np.abs(counts / counts.sum() - reference / reference.sum()).sum() / 2)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a share (Wilson 1927); right also for shares near 0 or 1, where the normal one is not."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def t_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of independent values, one per fresh batch of samples; at least two values."""
    if len(values) < 2:
        raise ValueError(f"at least 2 values are needed, not {len(values)}")
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return (mean - half, mean + half) if math.isfinite(half) else (mean, mean)
