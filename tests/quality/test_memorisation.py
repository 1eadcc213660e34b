"""What was learnt by heart is seen in pixels and features; new images are not taken for copies."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from troika.datasets.contract import Dataset
from troika.quality.memorisation import TrainingIndex

RNG = np.random.default_rng(0)
TRAIN, HELD_OUT, NEW = (RNG.normal(size=(count, 12)).astype(np.float32) for count in (700, 300, 400))


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def by_scikit_learn(train: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact = NearestNeighbors(algorithm="brute").fit(train.astype(np.float64))
    distances, nearest = exact.kneighbors(rows.astype(np.float64), 1)
    return distances[:, 0], nearest[:, 0]


def test_figures_are_those_of_their_definitions() -> None:
    fake = np.concatenate([NEW, TRAIN[:100] + 0.05 * NEW[:100]])
    found = TrainingIndex(TRAIN, HELD_OUT).of(fake)
    distances, nearest = by_scikit_learn(TRAIN, fake)
    held_out, _ = by_scikit_learn(TRAIN, HELD_OUT)
    assert np.array_equal(found.nearest, nearest)
    assert found.distances == pytest.approx(distances, abs=1e-4)
    is_held_out = np.repeat([False, True], [len(fake), len(held_out)])
    assert found.auc == pytest.approx(roc_auc_score(is_held_out, np.concatenate([distances, held_out])), abs=1e-4)
    assert found.distance_ratio == pytest.approx(np.median(distances) / np.median(held_out), abs=1e-4)
    own = NearestNeighbors(algorithm="brute").fit(TRAIN).kneighbors(TRAIN, 2)[0][:, 1]
    assert found.authenticity == pytest.approx((distances > own[nearest]).mean(), abs=1e-4)
    # Of 300 held-out distances, the third smallest is the last of the closest 1 %.
    assert found.duplicates == pytest.approx((distances <= np.sort(held_out)[2]).mean())
    assert (found.nearest.dtype, found.distances.dtype) == (np.int64, np.float64)


def test_ties_count_half() -> None:
    train = np.array([[0.0], [100.0]])
    found = TrainingIndex(train, np.array([[1.0], [2.0], [2.0], [4.0]])).of(np.array([[2.0], [98.0], [0.5]]))
    # At distance 2: before one of four, tied with two; twice. At 0.5: before all.
    assert found.auc == pytest.approx((2 * (1 + 2 / 2) / 4 + 1) / 3)
    assert found.nearest.tolist() == [0, 1, 0]
    assert found.distances.tolist() == [2, 2, 0.5]


def test_new_images_are_no_copies() -> None:
    found = TrainingIndex(TRAIN, HELD_OUT).of(NEW)
    assert found.auc == pytest.approx(0.5, abs=0.07)
    assert found.duplicates == pytest.approx(0.01, abs=0.015)
    assert found.distance_ratio == pytest.approx(1, abs=0.05)
    assert found.authenticity > 0.4


@pytest.mark.parametrize("scale", [1e-3, 1, 255, 1e4])
@pytest.mark.parametrize("offset", [0, 1000])
def test_copies_are_copies(scale: float, offset: float) -> None:
    train, held_out = TRAIN * scale + offset, HELD_OUT * scale + offset
    found = TrainingIndex(train, held_out).of(train[::-1])
    assert (found.distances == 0).all()
    assert (found.auc, found.duplicates, found.authenticity, found.distance_ratio) == (1, 1, 0, 0)
    half = TrainingIndex(train, held_out).of(np.concatenate([train[:200], held_out[:200]]))
    assert half.duplicates == pytest.approx(0.5, abs=0.02)
    assert half.auc == pytest.approx(0.75, abs=0.03)


def test_copies_of_digits_are_seen_among_images_that_are_almost_equal(prepared_digits: Dataset) -> None:
    train, held_out = pixels(prepared_digits.train.images), pixels(prepared_digits.held_out.images)
    # Each training image twice, one level apart in one pixel: rounding of float32 sums is larger than that gap.
    twin = train.copy()
    twin[:, 5] = np.where(twin[:, 5] > 0, twin[:, 5] - 1, 1)
    found = TrainingIndex(np.concatenate([twin, train]), held_out).of(train)
    assert (found.distances == 0).all()
    assert np.array_equal(found.nearest, np.arange(len(train)) + len(train))
    real = TrainingIndex(train, held_out).of(held_out)
    assert (real.auc, real.distance_ratio) == (0.5, 1)
    assert real.duplicates == pytest.approx(0.01, abs=0.005)


def test_copies_are_seen_among_rows_that_are_almost_equal() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 784)).astype(np.float32)
    # Each row ten times, one level apart in one pixel each: rounding of float32 sums is larger than that gap.
    twins = np.concatenate([images + np.eye(784, dtype=np.float32)[number] for number in range(10)])
    found = TrainingIndex(twins, images[:50] + 3).of(twins)
    assert (found.distances == 0).all()
    assert np.array_equal(found.nearest, np.arange(len(twins)))


def test_copies_are_seen_where_held_out_images_are_copies_too() -> None:
    held_out = np.concatenate([TRAIN[:30], HELD_OUT])
    index = TrainingIndex(TRAIN, held_out)
    assert index.of(TRAIN[100:200]).duplicates == 1
    assert index.of(NEW).duplicates == 0
    # Were all held-out images copies, no ratio to them would be finite.
    all_copies = TrainingIndex(TRAIN, TRAIN[:50])
    assert all_copies.of(TRAIN[:50]).distance_ratio == 1
    assert all_copies.of(TRAIN[:50]).auc == 0.5
    assert all_copies.of(NEW).distance_ratio == 1e6


def test_a_collapsed_generator_and_rows_that_do_not_vary_are_no_trouble() -> None:
    one = TrainingIndex(TRAIN, HELD_OUT).of(np.repeat(NEW[:1], 50, axis=0))
    assert len(set(one.distances)) == len(set(one.nearest)) == 1
    same = np.full((40, 3), 1.1, np.float32)
    found = TrainingIndex(same, same[:5]).of(same[:7])
    assert (found.auc, found.duplicates, found.authenticity, found.distance_ratio) == (0.5, 1, 0, 1)
    assert np.array_equal(found.nearest, np.zeros(7))


def test_figures_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingIndex(TRAIN, HELD_OUT).of(NEW)
    for rows in (1, 7, 299):
        monkeypatch.setattr("troika.quality.rows._BLOCK_BYTES", rows * 8 * len(TRAIN))
        parts = TrainingIndex(TRAIN, HELD_OUT).of(NEW)
        assert np.array_equal(parts.nearest, whole.nearest)
        assert np.array_equal(parts.distances, whole.distances)
        assert parts.authenticity == whole.authenticity


def test_figures_do_not_depend_on_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where a tile holds the one row that does not count, or rows that are as near in several tiles."""
    train = np.concatenate([TRAIN, TRAIN[:40]])
    whole = TrainingIndex(train, HELD_OUT).of(NEW)
    copies = TrainingIndex(train, HELD_OUT).of(TRAIN)
    for rows in (1, 7, len(train) - 1):
        monkeypatch.setattr("troika.quality.pairs._TILE", rows)
        parts = TrainingIndex(train, HELD_OUT).of(NEW)
        assert np.array_equal(parts.nearest, whole.nearest)
        assert np.array_equal(parts.distances, whole.distances)
        assert np.array_equal(parts.spacing, whole.spacing)
        assert np.array_equal(TrainingIndex(train, HELD_OUT).of(TRAIN).nearest, copies.nearest)


def test_one_index_serves_many_sets() -> None:
    index = TrainingIndex(TRAIN, HELD_OUT)
    first = index.of(NEW)
    index.of(TRAIN[:50])
    again = index.of(NEW)
    assert (again.auc, again.authenticity) == (first.auc, first.authenticity)
    assert np.array_equal(again.distances, first.distances)


def test_memory_is_bounded() -> None:
    train = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    tracemalloc.start()
    TrainingIndex(train, train[:2000]).of(train[:2000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6 < 4 * 20_000 * 2000, "all distances at once would be 160 MB"


@pytest.mark.parametrize(
    ("train", "held_out", "fake", "message"),
    [
        (np.ones((1, 3)), np.ones((9, 3)), np.ones((9, 3)), "training: at least 2 rows are needed, not 1"),
        (np.ones((9, 3)), np.ones((0, 3)), np.ones((9, 3)), "held-out: at least 1 rows are needed, not 0"),
        (np.ones((9, 3)), np.ones((9, 2)), np.ones((9, 3)), "training and held-out: both need the same features"),
        (np.ones((9, 3)), np.ones((9, 3)), np.ones((9, 2)), "generated and training: both need the same features"),
        (np.ones((9, 3)), np.ones((9, 3)), np.full((2, 3), np.nan), "generated: 2 of 2 rows hold NaN"),
        (
            np.full((9, 3), 1e30),
            np.ones((9, 3)),
            np.ones((2, 3)),
            "training: 9 of 9 rows hold NaN, infinity or val",
        ),
    ],
)
def test_rows_that_cannot_be_measured_are_named(
    train: np.ndarray, held_out: np.ndarray, fake: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingIndex(train, held_out).of(fake)
