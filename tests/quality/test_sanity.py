"""What is no picture is refused by name; brightness, contrast, constants and repeats are those of known images."""

import numpy as np
import pytest

from troika.datasets.contract import Dataset
from troika.quality.sanity import Look, look_of, problem_of, sanity

SHAPE = (4, 6, 1)
GOOD = np.random.default_rng(0).integers(0, 256, (10, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[0]], "images: an array is needed, not list"),
        (GOOD / np.float32(255), "images: uint8 0..255 is needed, not float32 in 0..1"),
        (GOOD.astype(np.float64) * 2 - 255, r"not float64 in -255..25\d"),
        (np.full((10, *SHAPE), np.nan, np.float32), "not float32, of which 100.0% is NaN or infinite"),
        (np.where(GOOD < 13, np.inf, 1.0), r"not float64, of which \d\.\d% is NaN or infinite"),
        (GOOD.astype(np.int64), "not int64 in "),
        (GOOD.astype(str), "images: uint8 0..255 is needed, not <U3$"),
        (GOOD > 9, "not bool$"),
        (GOOD[..., 0], r"four dimensions \(count, height, width, channels\) are needed, not \(10, 4, 6\)"),
        (GOOD.transpose(0, 3, 1, 2), r"must be \(4, 6, 1\), not \(1, 4, 6\); the channels come first"),
        (GOOD.transpose(0, 2, 1, 3), r"must be \(4, 6, 1\), not \(6, 4, 1\)$"),
        (GOOD[:9], "images: 10 are needed, not 9"),
        (GOOD[:0], "images: 10 are needed, not 0"),
    ],
)
def test_what_is_no_images_is_named(images: object, message: str) -> None:
    found = problem_of(images, SHAPE, 10)
    assert found is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(found)


def test_images_have_no_problem() -> None:
    assert problem_of(GOOD, SHAPE, 10) is None
    assert problem_of(GOOD, SHAPE) is None
    assert problem_of(GOOD[:0], SHAPE) == "images: some are needed, not 0"


def test_look_is_mean_and_mean_spread() -> None:
    halves = np.zeros((4, 2, 2, 1), np.uint8)
    halves[:2, 0] = 200
    # Two images with levels 0 and 200 in equal parts, two black ones.
    assert look_of(halves) == Look((2, 2, 1), 50, 50)
    with pytest.raises(ValueError, match="at least 1 is needed"):
        look_of(halves[:0])


def test_look_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = look_of(GOOD)
    monkeypatch.setattr("troika.quality.rows._BLOCK_BYTES", 3 * 8 * 24)
    parts = look_of(GOOD)
    assert (parts.brightness, parts.contrast) == pytest.approx((whole.brightness, whole.contrast))
    assert whole.brightness == pytest.approx(GOOD.mean())


def test_real_digits_are_sane_and_spoiled_ones_are_not(prepared_digits: Dataset) -> None:
    real = look_of(prepared_digits.train.images)
    held_out = prepared_digits.held_out.images
    found = sanity(held_out, real)
    assert (found.constant, found.repeated) == (0, 0)
    assert found.brightness_gap < 0.02
    assert found.contrast_ratio == pytest.approx(1, abs=0.05)

    inverted = sanity(255 - held_out, real)
    assert inverted.brightness_gap > 0.3
    grey = sanity((held_out // 4) + 60, real)
    assert grey.contrast_ratio == pytest.approx(0.25, abs=0.02)
    one = sanity(np.repeat(held_out[:1], 50, axis=0), real)
    assert one.repeated == pytest.approx(49 / 50)
    blank = sanity(np.zeros_like(held_out), real)
    assert (blank.constant, blank.contrast_ratio) == (1, 0)
    assert blank.repeated == pytest.approx(1 - 1 / len(held_out))
    assert blank.brightness_gap == pytest.approx(real.brightness / 255)


def test_contrast_ratio_is_finite_where_real_images_have_none() -> None:
    blank = np.full((5, *SHAPE), 7, np.uint8)
    assert sanity(blank, look_of(blank)).contrast_ratio == 1
    assert sanity(GOOD, look_of(blank)).contrast_ratio == 1000


def test_what_is_not_images_is_not_held_against_real_ones() -> None:
    with pytest.raises(ValueError, match=r"uint8 0\.\.255 is needed, not float64"):
        sanity(GOOD / 255, look_of(GOOD))
    with pytest.raises(ValueError, match=r"must be \(4, 6, 1\), not \(6, 4, 1\)"):
        sanity(GOOD.reshape(10, 6, 4, 1), look_of(GOOD))
