"""Work in parts, on all cores: the same on any number of them."""

import threading

import numpy as np
import pytest
from patterns import CHAMPION, SAMPLES, PatternGenerator, judged_patterns, pattern_side

from troika.quality.evaluator import Evaluator
from troika.quality.gate import Limit
from troika.quality.judge import judge
from troika.quality.real import pixels
from troika.quality.rows import images_at_once, on_all_cores, parts_of


def test_parts_cover_every_row_once() -> None:
    assert [(part.start, part.stop) for part in parts_of(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(parts_of(0, 3)) == []


def test_fewer_large_images_are_looked_at_in_one_piece() -> None:
    assert [images_at_once(side, side) for side in (8, 64, 128, 1024, 4096)] == [256, 256, 64, 1, 1]


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((28, 28, 1), 14 * 14),
        ((8, 8, 1), 64),
        ((64, 64, 3), 9 * 9 * 3),
        ((512, 2, 3), 85 * 1 * 3),
        ((4, 600, 3), 85 * 1 * 3),
        ((300, 1, 1), 150),
        ((2, 2, 300), 300),
    ],
)
def test_images_of_any_shape_have_some_pixels_to_compare(shape: tuple[int, int, int], values: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    rows = pixels(images)
    assert rows.shape == (3, values)
    assert np.ptp(rows) > 0


def test_results_come_in_the_order_of_the_parts_and_errors_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troika.quality.rows.usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=30)

    def work(part: slice) -> int:
        together.wait()  # passes only while three are at work at once
        return part.start

    assert on_all_cores(work, parts_of(30, 5)) == [0, 5, 10, 15, 20, 25]

    def fail(part: slice) -> None:
        raise ValueError(f"part {part.start}")

    with pytest.raises(ValueError, match="part 0"):
        on_all_cores(fail, parts_of(30, 5))


def test_the_number_of_cores_changes_no_feature(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 8, 8, 1), dtype=np.uint8)
    found = []
    for cores in (1, 5):
        monkeypatch.setattr("troika.quality.rows.usable_cores", lambda cores=cores: cores)
        found.append(evaluator.look_at(images))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_figures_that_a_limit_names_are_the_same_where_no_others_are_measured() -> None:
    real = pattern_side()
    generator = PatternGenerator(real, noise=90)
    whole = {measure.name: measure for measure in judged_patterns(real, generator).judgement.measures}
    names = [name for name, measure in whole.items() if measure.value is not None]
    for name in names:
        limits = {name: Limit(at_least=-1e9)}
        judged = judge(generator, real, SAMPLES, limits, None, CHAMPION, only_limits=True)
        (found,) = [measure for measure in judged.judgement.measures if measure.name == name]
        assert (found.value, found.low, found.high) == (whole[name].value, whole[name].low, whole[name].high)
    # And others are indeed left out.
    assert "frechet_distance_to_train" in names
    judged = judge(generator, real, SAMPLES, {"recall": Limit(at_least=0)}, None, CHAMPION, only_limits=True)
    assert "frechet_distance_to_train" not in {measure.name for measure in judged.judgement.measures}
