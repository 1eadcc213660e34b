"""What is noted of every image, against means that are taken the long way."""

import numpy as np
import pytest

from troika.datasets.facts import Facts, facts_of


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 64, 3), (16, 40, 1), (28, 28, 1), (9, 13, 3), (5, 3, 1)])
def test_thumbnails_and_brightness_are_means_of_equal_fields(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    height, width, channels = shape
    # Each pixel as 8 x 8 of them: now fields end where pixels do.
    fine = images.astype(np.float64).repeat(8, axis=1).repeat(8, axis=2)
    means = fine.reshape(6, 8, height, 8, width, channels).mean(axis=(2, 4, 5)).reshape(6, 64)
    found = facts_of(images)
    assert found.brightness == pytest.approx(means.mean(axis=1), abs=1e-3)
    shifted = means - means.mean(axis=1, keepdims=True)
    expected = varying = [shifted]
    if channels == 3:
        fields = fine.reshape(6, 4, 2 * height, 4, 2 * width, 3).mean(axis=(2, 4)).reshape(6, 16, 3)
        red, green, blue = np.moveaxis(2 * fields, 2, 0)
        expected = [shifted, (red - green) / 6**0.5, (red + green - 2 * blue) / 18**0.5]
        varying = [part - part.mean(axis=1, keepdims=True) for part in expected]
    expected = np.hstack(expected) / np.linalg.norm(np.hstack(varying), axis=1, keepdims=True)
    assert found.thumbnails == pytest.approx(expected, abs=1e-3)
    assert facts_of(images[:0]).thumbnails.shape == Facts.empty(0, channels).thumbnails.shape == expected[:0].shape


def test_bright_lines_of_a_tall_image_do_not_overflow() -> None:
    images = np.full((1, 8 * 300, 8, 1), 255, np.uint8)
    assert facts_of(images).brightness == pytest.approx(255)
