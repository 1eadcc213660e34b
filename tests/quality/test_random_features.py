"""Random features: the same everywhere, of any shape, good enough to tell classes; and what is learnt."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from troika.datasets.contract import Dataset
from troika.quality.classification import accuracy_of_features
from troika.quality.random_features import RandomFeatures


def _score(
    images: np.ndarray,
    labels: np.ndarray,
    real: np.ndarray,
    classes: np.ndarray,
    features: RandomFeatures,
    count: int,
) -> float:
    return accuracy_of_features(features.look_at(images), labels, features.look_at(real), classes, count)


def noise(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((8, 8, 1), 512),
        ((28, 28, 1), 512),
        ((64, 64, 3), 512),
        ((9, 13, 3), 512),
        ((3, 2, 1), 192),
        ((1, 1, 4), 32),
    ],
)
def test_any_shape_gives_finite_features_of_known_size(shape: tuple[int, int, int], size: int) -> None:
    features = RandomFeatures(shape)
    found = features.look_at(noise(3, shape))
    assert (found.shape, found.dtype, features.size) == ((3, size), np.float32, size)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.any()


def test_a_seed_gives_the_same_features_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(50, (8, 8, 1))
    found = RandomFeatures((8, 8, 1), seed=3).look_at(images)
    assert np.array_equal(RandomFeatures((8, 8, 1), seed=3).look_at(images), found)
    assert not np.allclose(RandomFeatures((8, 8, 1), seed=4).look_at(images), found)
    monkeypatch.setattr("troika.quality.rows._BLOCK_BYTES", 7 * 8 * 64 * 25)
    np.testing.assert_allclose(RandomFeatures((8, 8, 1), seed=3).look_at(images), found, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(RandomFeatures((8, 8, 1), seed=3).look_at(images[9:10])[0], found[9], rtol=1e-5)


def test_features_are_rectified_answers_averaged_over_fields() -> None:
    """One feature by hand, from the filters themselves."""
    features = RandomFeatures((8, 8, 1))
    image = noise(1, (8, 8, 1))
    padded = np.pad(image[0, :, :, 0] / 127.5 - 1, 2, mode="edge")
    kernel, offset = features._filters[:, 5].reshape(5, 5), features._offsets[5]
    # The field in row 1, column 2 of four by four: places 2 and 3 down, 4 and 5 across.
    answers = [max((padded[y : y + 5, x : x + 5] * kernel).sum() + offset, 0) for y in (2, 3) for x in (4, 5)]
    assert features.look_at(image)[0, (1 * 4 + 2) * 32 + 5] == pytest.approx(np.mean(answers), rel=1e-4)


def test_filters_are_the_same_on_every_machine() -> None:
    """Known once, on one machine; another would see other figures, and thresholds mean nothing there."""
    features = RandomFeatures((8, 8, 1), seed=0)
    assert features._filters[:3, 0] == pytest.approx(FIRST_WEIGHTS, abs=1e-6)
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    assert features.look_at(image)[0, :3] == pytest.approx(FIRST_FEATURES, rel=1e-4)


FIRST_WEIGHTS = [0.2070429, 0.2947362, 0.2327045]
FIRST_FEATURES = [0.0, 0.6756557, 0.1442396]


def test_other_images_are_refused() -> None:
    features = RandomFeatures((8, 8, 1))
    with pytest.raises(ValueError, match=r"uint8 \(N, 8, 8, 1\) is needed, not uint8 \(2, 8, 9, 1\)"):
        features.look_at(noise(2, (8, 9, 1)))
    with pytest.raises(ValueError, match=r"not float64 \(2, 8, 8, 1\)"):
        features.look_at(noise(2, (8, 8, 1)) / 255)


def test_real_digits_teach_real_digits(prepared_digits: Dataset) -> None:
    train, held_out = prepared_digits.train, prepared_digits.held_out
    features = RandomFeatures(prepared_digits.info.shape)
    score = _score(train.images, train.labels, held_out.images, held_out.labels, features, 10)
    assert score >= 0.97
    wrong = np.random.default_rng(0).permutation(train.labels)
    guessed = _score(train.images, wrong, held_out.images, held_out.labels, features, 10)
    assert guessed < 0.3
    # One image of each class, again and again: agreement with a label would be perfect.
    first = [int(np.flatnonzero(train.labels == label)[0]) for label in range(10)] * 20
    few = _score(train.images[first], train.labels[first], held_out.images, held_out.labels, features, 10)
    assert few < 0.9


def test_mnist_teaches_mnist() -> None:
    folder = os.environ.get("TROIKA_TEST_MNIST")
    if folder is None:
        if os.environ.get("CI"):
            pytest.fail("TROIKA_TEST_MNIST is not set")
        pytest.skip("TROIKA_TEST_MNIST is not set; set it to a folder with MNIST's four idx .gz files")
    with gzip.open(Path(folder) / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + 12_000 * 784), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(Path(folder) / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + 12_000), np.uint8, offset=8).astype(np.int64)
    train, held_out = slice(10_000), slice(10_000, 12_000)
    features = RandomFeatures((28, 28, 1))
    score = _score(images[train], labels[train], images[held_out], labels[held_out], features, 10)
    assert score >= 0.95


def test_score_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features, held_out = rng.normal(size=(300, 20)) * 5 + 3, rng.normal(size=(200, 20)) * 5 + 3
    labels, held_out_labels = (features[:, 0] > 3).astype(int), (held_out[:, 0] > 3).astype(int)
    scaler = StandardScaler().fit(features)
    model = RidgeClassifier(alpha=0.3).fit(scaler.transform(features), labels)
    expected = model.score(scaler.transform(held_out), held_out_labels)
    assert accuracy_of_features(features, labels, held_out, held_out_labels, 2) == pytest.approx(
        expected, abs=1e-4
    )
    assert 0.8 < expected < 1


def test_classes_that_never_came_are_never_told() -> None:
    held_out_labels = np.repeat([0, 1, 2, 3], 25)
    held_out = np.eye(4)[held_out_labels]
    all_of_them = accuracy_of_features(held_out, held_out_labels, held_out, held_out_labels, 4)
    assert all_of_them == 1
    two = held_out_labels < 2
    assert accuracy_of_features(held_out[two], held_out_labels[two], held_out, held_out_labels, 4) == 0.5
    one = held_out_labels == 3
    assert accuracy_of_features(held_out[one], held_out_labels[one], held_out, held_out_labels, 4) == 0.25


def test_features_that_do_not_vary_are_no_trouble() -> None:
    labels = np.repeat([0, 1], 10)
    constant = np.full((20, 3), 1.1, np.float32)
    assert accuracy_of_features(constant, labels, constant, labels, 2) == 0.5
    # Rounding that happens to go with the labels is no feature.
    rounding = np.where(labels == 1, np.nextafter(0.1, 1), 0.1)[:, np.newaxis]
    assert rounding.std() > 0
    assert accuracy_of_features(rounding, labels, rounding, labels, 2) == 0.5
    with_one = np.concatenate([constant, labels[:, np.newaxis]], axis=1)
    assert accuracy_of_features(with_one, labels, with_one + np.array([0.01, 0, 0, 0]), labels, 2) == 1


@pytest.mark.parametrize(
    ("labels", "held_out_labels", "message"),
    [
        ([0, 1], [0, 1, 1], "generated: one label for each of 3 rows is needed"),
        ([0, 1, 1], [0, 1, 2], r"held-out: labels must be 0\.\.1, not 0\.\.2"),
        ([-1, 1, 1], [0, 1, 1], r"generated: labels must be 0\.\.1, not -1\.\.1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[int], held_out_labels: list[int], message: str) -> None:
    rows = np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match=message):
        accuracy_of_features(rows, np.array(labels), rows, np.array(held_out_labels), 2)
