"""Distances and intervals against closed forms, an independent implementation, published values and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from troika.quality.measures import frechet_distance, t_interval, total_variation, wilson_interval


def reference_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The formula of Heusel et al. as it is printed, by scipy's general matrix square root."""
    gap = features.mean(axis=0) - reference.mean(axis=0)
    one, other = np.cov(features, rowvar=False), np.cov(reference, rowvar=False)
    return float(gap @ gap + np.trace(one + other - 2 * linalg.sqrtm(one @ other).real))


def gaussian(rng: np.random.Generator, count: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """`count` rows whose sample mean and sample covariance are these, exactly."""
    plain = rng.normal(size=(count, len(mean)))
    plain -= plain.mean(axis=0)
    white = plain @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(plain, rowvar=False)))).T
    return white @ np.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize(("dimensions", "seed"), [(2, 0), (16, 1), (64, 2)])
def test_frechet_distance_is_that_of_the_printed_formula(dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(dimensions, dimensions))
    features = rng.normal(size=(400, dimensions)) @ mixed + rng.normal(size=dimensions)
    reference = rng.normal(size=(300, dimensions)) * rng.uniform(0.1, 3, dimensions)
    expected = reference_distance(features, reference)
    assert frechet_distance(features, reference) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(features.astype(np.float32), reference) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    one = gaussian(rng, 50, np.array([0.0, 1, 2]), np.diag([1.0, 4, 9]))
    other = gaussian(rng, 70, np.array([3.0, 1, -2]), np.diag([4.0, 4, 0.25]))
    # Squared gap of the means, and of the standard deviations where the axes are shared.
    assert frechet_distance(one, other) == pytest.approx((9 + 0 + 16) + (1 + 0 + 2.5**2))


def test_frechet_distance_in_one_dimension() -> None:
    rng = np.random.default_rng(0)
    one = gaussian(rng, 20, np.array([1.0]), np.array([[4.0]]))
    other = gaussian(rng, 20, np.array([-2.0]), np.array([[0.25]]))
    assert frechet_distance(one, other) == pytest.approx(9 + 1.5**2)


@settings(max_examples=50)
@given(rows=st.integers(2, 30), dimensions=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_frechet_distance_is_a_distance(rows: int, dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(rows, dimensions)), rng.normal(size=(rows + 3, dimensions)) * 2 + 1
    found = frechet_distance(one, other)
    assert found > 0
    assert frechet_distance(other, one) == pytest.approx(found, abs=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-5)
    turned, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    assert frechet_distance(one @ turned + 7, other @ turned + 7) == pytest.approx(found, rel=1e-6, abs=1e-5)
    assert frechet_distance(3 * one, 3 * other) == pytest.approx(9 * found, rel=1e-6, abs=1e-5)


def test_frechet_distance_is_finite_where_features_do_not_vary() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(100, 8))
    assert frechet_distance(np.ones((50, 8)), np.ones((60, 8))) == 0
    gap = 1 - reference.mean(axis=0)
    expected = gap @ gap + np.trace(np.cov(reference, rowvar=False))
    assert frechet_distance(np.ones((50, 8)), reference) == pytest.approx(expected)
    dead = rng.normal(size=(50, 8))
    dead[:, 3] = 0
    assert math.isfinite(frechet_distance(dead, reference))


@pytest.mark.parametrize("rows", [2, 5, 63])
def test_frechet_distance_is_finite_with_fewer_rows_than_features(rows: int) -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(rows, 64)), rng.normal(size=(500, 64))
    for found in (frechet_distance(few, many), frechet_distance(many, few), frechet_distance(few, few[::-1])):
        assert math.isfinite(found)
        assert found >= 0


def test_frechet_distance_of_one_row_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match="generated: at least 2 rows are needed, not 1"):
        frechet_distance(np.ones((1, 3)), np.ones((9, 3)))


def test_total_variation_from_equal_to_disjoint() -> None:
    def distance(one: list[int], other: list[int]) -> float:
        return total_variation(np.array(one), np.array(other))

    assert distance([1, 2, 3], [10, 20, 30]) == pytest.approx(0)
    assert distance([5, 0], [0, 7]) == 1
    assert distance([1, 1, 1, 1], [4, 4, 0, 0]) == 0.5
    assert distance([9, 1], [1, 1]) == distance([1, 1], [9, 1]) == pytest.approx(0.4)
    # One of ten classes missing: a tenth of the mass is elsewhere.
    assert distance([0] + [10] * 9, [9] * 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_that_of_the_literature(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_interval_narrows_with_trials_and_widens_with_confidence() -> None:
    def width(trials: int, confidence: float = 0.95) -> float:
        low, high = wilson_interval(trials // 10, trials, confidence)
        assert 0 <= low < 0.1 < high <= 1
        return high - low

    assert width(10_000) < width(1000) < width(100) < width(100, 0.99)


def test_t_interval_of_known_values() -> None:
    # Mean 3, standard deviation sqrt(2.5), and 2.776445 is the 97.5 % point of t with 4 degrees of freedom.
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert t_interval([2.0, 2.0, 2.0]) == (2, 2)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_t_interval_of_one_value_says_what_is_needed(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 values are needed, not "):
        t_interval(values)


def test_t_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Of Fréchet distances of independent batches, which are not normal: ten of them, as params.yaml has it."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 4))
    pool = np.array([frechet_distance(rng.normal(size=(100, 4)), reference) for _ in range(3000)])
    hits = 0
    for batches in pool.reshape(300, 10):
        low, high = t_interval(batches.tolist())
        hits += low <= pool.mean() <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_resampling_one_batch_would_not_hold_it() -> None:
    """Why the judge draws fresh batches: the naive bootstrap of a Fréchet distance is biased upwards."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(500, 16))
    batch = rng.normal(size=(200, 16))
    point = frechet_distance(batch, reference)
    resampled = [frechet_distance(batch[rng.integers(0, 200, 200)], reference) for _ in range(200)]
    low, _ = np.quantile(resampled, [0.025, 0.975])
    assert point < low
