"""Distances and intervals against closed forms, an independent implementation, published values and simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from benchmarks.judging_peers import (
    fidelity_frechet,
    fidelity_kernel,
    torchmetrics_frechet,
    torchmetrics_kernel,
)
from troika.quality.measures import (
    RealKernel,
    feature_scale,
    frechet_distance,
    frechet_distance_at_infinity,
    kernel_distance,
    t_interval,
    total_variation,
    wilson_interval,
)


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


def test_a_feature_that_never_varies_adds_the_gap_of_its_means_alone() -> None:
    fake, real = features_of_two(300, 6)
    expected = frechet_distance(fake[:, :5], real[:, :5])
    for fake_level, real_level in ((7, 7), (7, 4)):
        fake[:, 5], real[:, 5] = fake_level, real_level
        assert frechet_distance(fake, real) == pytest.approx(expected + (fake_level - real_level) ** 2, rel=1e-5)
        assert frechet_distance(real, fake) == pytest.approx(expected + (fake_level - real_level) ** 2, rel=1e-5)


@pytest.mark.parametrize("rows", [2, 5, 63])
def test_frechet_distance_is_finite_with_fewer_rows_than_features(rows: int) -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(rows, 64)), rng.normal(size=(500, 64))
    for found in (frechet_distance(few, many), frechet_distance(many, few), frechet_distance(few, few[::-1])):
        assert math.isfinite(found)
        assert found >= 0


def features_of_two(rows: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    mixed = rng.normal(size=(dimensions, dimensions)) / dimensions**0.5
    real = np.maximum(rng.normal(size=(rows, dimensions)) @ mixed, 0) * 3
    fake = np.maximum(rng.normal(size=(rows, dimensions)) @ mixed + 0.1, 0) * 3.2
    return fake.astype(np.float32), real.astype(np.float32)


@pytest.mark.parametrize(("rows", "dimensions"), [(300, 4), (400, 64), (100, 128)])
def test_distances_are_those_of_torch_fidelity_and_torchmetrics(rows: int, dimensions: int) -> None:
    fake, real = features_of_two(rows, dimensions)
    found = frechet_distance(fake, real)
    assert found == pytest.approx(fidelity_frechet(fake, real), abs=1e-4, rel=1e-4)
    assert found == pytest.approx(torchmetrics_frechet(fake, real), abs=1e-4, rel=1e-4)
    kernel = kernel_distance(fake, real)
    assert kernel == pytest.approx(fidelity_kernel(fake, real), abs=1e-4, rel=1e-4)
    assert kernel == pytest.approx(torchmetrics_kernel(fake, real), abs=1e-4, rel=1e-4)
    assert kernel > 1e-3
    assert found > 1e-2


def test_kernel_distance_is_its_formula_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    among = [
        np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (one, other)
    ]
    between = np.mean([kernel(x, y) for x in one for y in other])
    assert kernel_distance(one, other) == pytest.approx(sum(among) - 2 * between)


def test_kernel_distance_is_unbiased_and_grows_with_the_difference() -> None:
    rng = np.random.default_rng(0)
    real = RealKernel(rng.normal(size=(2000, 8)))
    equal = [real.distance(rng.normal(size=(50, 8))) for _ in range(200)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / 200**0.5
    assert min(equal) < 0
    shifted = [real.distance(rng.normal(size=(50, 8)) + gap) for gap in (0.3, 0.6, 1.2)]
    assert max(equal) < shifted[0] < shifted[1] < shifted[2]


def test_distances_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = features_of_two(300, 8)
    before = kernel_distance(fake, real)
    monkeypatch.setattr("troika.quality.rows._BLOCK_BYTES", 7 * 8 * 300)
    assert kernel_distance(fake, real) == pytest.approx(before, rel=1e-6)


def test_distances_are_finite_for_a_collapsed_generator() -> None:
    _, real = features_of_two(300, 16)
    collapsed = np.repeat(real[:1], 50, axis=0)
    gap = collapsed[0].astype(np.float64) - real.mean(axis=0, dtype=np.float64)
    assert frechet_distance(collapsed, real) == pytest.approx(gap @ gap + feature_scale(real), rel=1e-5)
    assert kernel_distance(collapsed, real) > 0.1
    # Of kernels in the hundreds, summed in float32.
    assert kernel_distance(collapsed, collapsed) == pytest.approx(0, abs=1e-4)
    batches = [collapsed] * 3
    assert frechet_distance_at_infinity(batches, real) == pytest.approx(frechet_distance(collapsed, real))


@pytest.mark.parametrize("scale", [1e-12, 1e6, 1e14])
def test_distances_are_finite_whatever_the_scale(scale: float) -> None:
    fake, real = (rows / 10 for rows in features_of_two(300, 16))
    large = frechet_distance(fake * np.float32(scale), real * np.float32(scale))
    assert large == pytest.approx(scale**2 * frechet_distance(fake, real), rel=1e-4)
    kernel = kernel_distance(fake * np.float32(scale), real * np.float32(scale))
    assert math.isfinite(kernel)
    # What is left of (x y / D + 1)^3 for large x is its cube, so the whole grows with the sixth power.
    if scale > 1:
        smaller = kernel_distance(fake * np.float32(scale / 10), real * np.float32(scale / 10))
        assert kernel == pytest.approx(1e6 * smaller, rel=1e-4)


def test_feature_scale_is_the_distance_of_always_the_average() -> None:
    _, real = features_of_two(300, 16)
    average = np.repeat(real.mean(axis=0, dtype=np.float64)[np.newaxis], 10, axis=0)
    assert feature_scale(real) == pytest.approx(frechet_distance(average, real))
    assert feature_scale(real) == pytest.approx(np.trace(np.cov(real, rowvar=False)))
    assert feature_scale(real * 3) == pytest.approx(9 * feature_scale(real), rel=1e-5)
    assert feature_scale(np.ones((5, 3))) == 0


def test_at_infinity_the_bias_of_few_samples_is_gone() -> None:
    """Gaussians whose true distance is known: means 1 apart in one direction, spreads 1 and 1.5."""
    rng = np.random.default_rng(0)
    dimensions = 16
    truth = 1 + dimensions * 0.5**2
    reference = gaussian(rng, 500, np.zeros(dimensions), np.eye(dimensions))
    shift = np.eye(dimensions)[0]
    batches = [rng.normal(size=(200, dimensions)) * 1.5 + shift for _ in range(10)]
    naive = float(np.mean([frechet_distance(batch, reference) for batch in batches]))
    found = frechet_distance_at_infinity(batches, reference)
    assert abs(found - truth) < 0.3 * abs(naive - truth)
    assert naive > truth


def test_at_infinity_is_the_straight_line_through_pools() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 3))
    batches = [rng.normal(size=(40, 3)) + 1 for _ in range(5)]
    sizes, means = [1, 2, 4, 5], []
    for size in sizes:
        pools = [np.concatenate(batches[start : start + size]) for start in range(0, 6 - size, size)]
        means.append(np.mean([frechet_distance(pool, reference) for pool in pools]))
    expected = np.polyfit([1 / (40 * size) for size in sizes], means, 1)[1]
    assert frechet_distance_at_infinity(batches, reference) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance_at_infinity([reference, reference], reference) == pytest.approx(0, abs=1e-4)


def test_at_infinity_needs_batches_of_one_size() -> None:
    rows = np.ones((9, 3))
    for batches in ([], [rows], [rows, rows[:5]]):
        with pytest.raises(ValueError, match="batches: at least 2 of one size are needed, not sizes"):
            frechet_distance_at_infinity(batches, rows)
    with pytest.raises(ValueError, match="generated batch 1 and real: both need the same features, not 2 and 3"):
        frechet_distance_at_infinity([rows, rows[:, :2]], rows)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("fake", "real", "message"),
    [
        (np.ones((1, 3)), np.ones((9, 3)), "generated: at least 2 rows are needed, not 1"),
        (np.ones((9, 3)), np.ones((1, 3)), "real: at least 2 rows are needed, not 1"),
        (np.ones((9, 3)), np.ones((9, 4)), "generated and real: both need the same features, not 3 and 4"),
        (np.array([[1.0], [np.nan], [np.inf]]), np.ones((9, 1)), "generated: 2 of 3 rows hold NaN, infinity or"),
        (np.ones((9, 1)), np.array([[1e200], [1.0]]), "real: 1 of 2 rows hold NaN, infinity or values beyond 1e"),
        (np.ones(9), np.ones((9, 1)), r"generated: rows of features are needed, \(N, D\) .* not an array \(9,\)"),
        (np.ones((9, 0)), np.ones((9, 1)), r"generated: rows of features are needed, .* not an array \(9, 0\)"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(
    measure: Callable[[np.ndarray, np.ndarray], float], fake: np.ndarray, real: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(fake, real)


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
