"""Distances and intervals, on plain arrays. Knows nothing of models, datasets or limits."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float32] | NDArray[np.float64]
Counts = NDArray[np.int64]


def labels_to_ask_for(held_out: Counts, size: int, rng: np.random.Generator) -> Counts:
    """Labels (size,) in random order with the class mix of the held-out ones (N,), as near as can be.

    Drawn one by one they would have a mix of their own, whose distance from the right one says nothing of a model.
    """
    return np.resize(rng.permutation(held_out), size)


def frechet_distance(features: Floats, reference: Floats) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (N, D) and (M, D); >= 0, 0 = equal.

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Heusel et al. 2017 (arXiv 1706.08500). The trace of the root is
    that of the symmetric matrix S1^(1/2) S2 S1^(1/2), so symmetric eigenvalues suffice: no matrix square root of a
    product, no complex numbers, finite for constant or too few features.
    """
    first, second = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    if len(first) < 2 or len(second) < 2:
        raise ValueError(f"at least 2 rows are needed on each side, not {len(first)} and {len(second)}")
    mean_gap = first.mean(axis=0) - second.mean(axis=0)
    covariance_1 = np.atleast_2d(np.cov(first, rowvar=False))
    covariance_2 = np.atleast_2d(np.cov(second, rowvar=False))
    values, vectors = np.linalg.eigh(covariance_1)
    root_1 = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root_1 @ covariance_2 @ root_1)
    trace_of_root = np.sqrt(np.clip(product, 0, None)).sum()
    distance = mean_gap @ mean_gap + np.trace(covariance_1) + np.trace(covariance_2) - 2 * trace_of_root
    return max(float(distance), 0.0)


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
