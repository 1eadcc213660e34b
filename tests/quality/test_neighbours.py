"""Precision, recall, density, coverage: by hand, as prdc and torch-fidelity have them, and where those break."""

import tracemalloc

import numpy as np
import pytest

from benchmarks.judging_peers import fidelity_precision_recall, prdc_neighbourhood
from troika.quality.neighbours import Neighbourhood, RealNeighbourhood, neighbourhood


def two_sets(fakes: int, reals: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(fakes + reals + dimensions)
    fake = rng.normal(size=(fakes, dimensions)) * 0.9 + 0.15
    return fake.astype(np.float32), rng.normal(size=(reals, dimensions)).astype(np.float32)


def test_by_hand_in_one_dimension() -> None:
    # The nearest other row is 1, 1 and 3 away for real rows, 6, 3.5 and 3.5 for generated ones.
    real = np.array([[0.0], [1.0], [4.0]])
    fake = np.array([[0.5], [6.5], [10.0]])
    found = neighbourhood(fake, real, k=1)
    # 0.5 lies in the balls of 0 and 1, but 4 - 0.5 > 3; 6.5 in that of 4; 10 in none.
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx((2 + 1 + 0) / 3)
    assert found.coverage == pytest.approx(3 / 3)
    # Within 6 of 0.5, all three.
    assert found.recall == pytest.approx(3 / 3)
    assert neighbourhood(fake + 100, real, k=1) == Neighbourhood(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("fakes", "reals", "dimensions", "k"),
    [(300, 300, 2, 5), (200, 350, 64, 3), (350, 200, 8, 1), (60, 60, 200, 5)],
)
def test_figures_are_those_of_prdc(fakes: int, reals: int, dimensions: int, k: int) -> None:
    fake, real = two_sets(fakes, reals, dimensions)
    expected = prdc_neighbourhood(fake, real, k)
    assert vars(neighbourhood(fake, real, k)) == pytest.approx(expected, abs=1e-4)
    assert vars(neighbourhood(fake.astype(np.float64), real, k)) == pytest.approx(expected, abs=1e-4)
    assert 0.1 < expected["coverage"] <= 1


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    fake, real = two_sets(300, 300, 8)
    found = neighbourhood(fake, real, 3)
    assert (found.precision, found.recall) == pytest.approx(fidelity_precision_recall(fake, real, 3), abs=1e-4)


def test_ties_are_outside_as_with_prdc() -> None:
    """Whole numbers from a small grid: many equal rows and equal distances, and no rounding."""
    rng = np.random.default_rng(0)
    for k in (1, 3, 5):
        fake, real = rng.integers(0, 4, (150, 4)).astype(float), rng.integers(0, 4, (150, 4)).astype(float)
        expected = prdc_neighbourhood(fake, real, k)
        assert vars(neighbourhood(fake, real, k)) == pytest.approx(expected, abs=1e-4)
        # Scaled by what floats cannot hold exactly, ties stay ties.
        assert vars(neighbourhood(fake * 0.1, real * 0.1, k)) == pytest.approx(expected, abs=1e-4)
        assert vars(neighbourhood(fake * 0.1 + 77.7, real * 0.1 + 77.7, k)) == pytest.approx(expected, abs=1e-4)


def test_real_against_real_is_far_from_one() -> None:
    """Why a figure needs its floor beside it: equal Gaussians in 64 dimensions."""
    rng = np.random.default_rng(0)
    found = neighbourhood(rng.normal(size=(500, 64)), rng.normal(size=(500, 64)))
    assert 0.2 < found.precision < 0.8
    assert 0.2 < found.recall < 0.8
    assert found.coverage > 0.9
    assert found.density == pytest.approx(1, abs=0.25)


def test_a_collapsed_generator_recalls_nothing() -> None:
    _, real = two_sets(10, 400, 8)
    once = neighbourhood(np.repeat(real[:1], 400, axis=0), real)
    assert once.precision == 1
    assert once.recall == 0
    assert once.coverage < 0.05
    # Nearly one image: rounding of a sum of squares is larger than these gaps.
    almost = np.repeat(real[:1], 400, axis=0) + np.random.default_rng(0).normal(size=(400, 8)) * 1e-5
    found = neighbourhood(almost, real)
    assert found.recall <= 1 / 400
    assert found.coverage < 0.05
    nowhere = neighbourhood(np.full((400, 8), 50.0), real)
    assert nowhere == Neighbourhood(0, 0, 0, 0)


def test_few_images_again_and_again_cover_little() -> None:
    fake, real = two_sets(400, 400, 8)
    varied, few = neighbourhood(fake, real), neighbourhood(np.resize(fake[:20], fake.shape), real)
    assert few.precision > 0.8
    assert few.recall == 0
    assert few.coverage < 0.5 < varied.coverage


def test_copies_of_real_rows_are_perfect_here() -> None:
    """What neighbours among distributions cannot see, memorisation.py does."""
    _, real = two_sets(10, 300, 8)
    found = neighbourhood(real, real)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_rows_that_do_not_vary_are_no_trouble() -> None:
    same = np.full((20, 3), 1.1, np.float32)
    assert neighbourhood(same, same) == Neighbourhood(0, 0, 0, 0)
    fake, real = two_sets(300, 300, 8)
    fake[:, 3] = real[:, 3] = 7
    dropped = neighbourhood(np.delete(fake, 3, axis=1), np.delete(real, 3, axis=1))
    assert neighbourhood(fake, real) == dropped


def test_far_from_the_origin_nothing_changes() -> None:
    fake, real = two_sets(300, 300, 8)
    fake, real = fake.astype(np.float64), real.astype(np.float64)
    assert neighbourhood(fake + 1e5, real + 1e5) == neighbourhood(fake, real)


def test_figures_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = two_sets(203, 311, 8)
    whole = neighbourhood(fake, real)
    for rows in (1, 7, 203):
        monkeypatch.setattr("troika.quality.rows._BLOCK_BYTES", rows * 8 * 311)
        assert neighbourhood(fake, real) == whole


def test_the_real_side_serves_many_sets() -> None:
    fake, real = two_sets(203, 311, 8)
    index = RealNeighbourhood(real, k=3)
    before = index.of(fake)
    assert index.of(real) != before
    assert index.of(fake) == before == neighbourhood(fake, real, k=3)


def test_memory_grows_with_one_side() -> None:
    fake, real = two_sets(5000, 5000, 4)
    tracemalloc.start()
    neighbourhood(fake, real)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6 < 8 * 5000 * 5000, "all distances at once would be 200 MB"


@pytest.mark.parametrize(
    ("fake", "real", "k", "message"),
    [
        (np.ones((9, 3)), np.ones((9, 3)), 0, "k: at least 1 neighbour is needed, not 0"),
        (np.ones((9, 3)), np.ones((5, 3)), 5, "real: at least 6 rows are needed, not 5"),
        (np.ones((5, 3)), np.ones((9, 3)), 5, "generated: at least 6 rows are needed, not 5"),
        (np.ones((9, 2)), np.ones((9, 3)), 5, "generated and real: both need the same features, not 2 and 3"),
        (np.full((9, 3), np.nan), np.ones((9, 3)), 5, "generated: 9 of 9 rows hold NaN"),
        (np.ones((9, 3)), np.full((9, 3), np.inf), 5, "real: 9 of 9 rows hold NaN, infinity"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(fake: np.ndarray, real: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbourhood(fake, real, k)
