"""What happens to images that nothing is wrong with but what others are there: copies, classes, values.

Whatever they come from; bad files are in test_problems.py.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raw_images import Made, encoded, prepare, prepare_npz, random_images

from troika.datasets.facts import facts_of
from troika.datasets.near_duplicates import Neighbourhood
from troika.errors import DatasetError


def prepared(folder: Path, images: np.ndarray, labels: np.ndarray, **changes: Any) -> Made:
    prepare_npz(folder, images, labels, **changes)
    return Made(folder)


def test_constant_copied_and_contradicted_images_are_left_out(tmp_path: Path) -> None:
    images, labels = random_images(80), np.arange(80) % 2
    images[3], images[4] = 7, 7
    images[10] = images[12] = images[14]
    images[21] = images[20]
    made = prepared(tmp_path, images, labels)
    assert made.quarantined() == {
        "image 3": "constant",
        "image 4": "constant",
        "image 12": "duplicate",
        "image 14": "duplicate",
        "image 20": "contradictory_labels",
        "image 21": "contradictory_labels",
    }
    details = {entry["name"]: entry["detail"] for entry in made.refused["quarantined"]}
    assert details["image 3"] == "all pixels are alike: 7"
    assert details["image 12"] == "same as image 10"
    assert details["image 20"] == "the same picture is labelled 0 and 1"
    kept = {"constant": "warn", "duplicate": "warn", "contradictory_labels": "warn"}
    assert sum(prepared(tmp_path, images, labels, policies=kept).dataset.info.counts.values()) == 80


def test_near_copies_are_noted_and_do_not_stand_on_two_sides(tmp_path: Path) -> None:
    images, labels = random_images(120, size=(16, 16)), np.arange(120) % 2
    brighter = np.clip(images.astype(int) * 0.9 + 12, 0, 255).astype(np.uint8)
    made = prepared(tmp_path, np.concatenate([images, brighter]), np.concatenate([labels, labels]))
    leaked = [name for name, problem in made.quarantined().items() if problem == "leakage"]
    near = made.refused["warning_counts"]["near_duplicate"]
    # Of each pair: either both on one side and noted, or one of them left out.
    assert len(leaked) + near == 120
    assert len(leaked) > 20
    seen = {"train": set(), "validation": set(), "test": set()}  # type: ignore[var-annotated]
    pairs = {image.tobytes(): number % 120 for number, image in enumerate(np.concatenate([images, brighter]))}
    for name, split in made.dataset.splits.items():
        seen[name] = {pairs[image.tobytes()] for image in split.images}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not seen[one] & seen[other]
    # Held-out images stay: test gives way to nothing.
    assert all(
        "in test" in entry["detail"] or "in validation" in entry["detail"] for entry in made.refused["quarantined"]
    )
    off = prepared(
        tmp_path / "off",
        np.concatenate([images, brighter]),
        np.concatenate([labels, labels]),
        near_duplicate_distance=0.0,
    )
    assert sum(off.dataset.info.counts.values()) == 240
    strict = prepared(
        tmp_path / "strict",
        np.concatenate([images, brighter]),
        np.concatenate([labels, labels]),
        policies={"near_duplicate": "quarantine"},
    )
    assert sum(strict.dataset.info.counts.values()) == 120


def test_copies_saved_anew_are_near_and_different_digits_are_not() -> None:
    from sklearn.datasets import load_digits

    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[..., None].repeat(4, 1).repeat(4, 2)
    saved = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(image[..., 0]), "JPEG", quality=90))))
            for image in digits[:100]
        ]
    )[..., None]
    thumbnails = facts_of(np.concatenate([digits, saved])).thumbnails
    originals = np.arange(len(digits))
    assert Neighbourhood(thumbnails, originals, 0.04).nearest(originals) == {}
    found = Neighbourhood(thumbnails, originals, 0.04).nearest(np.arange(len(digits), len(thumbnails)))
    assert {index: other for index, (other, _) in found.items()} == {len(digits) + i: i for i in range(100)}


def test_what_is_looked_for_leaves_the_built_in_digits_as_they_are(tmp_path: Path) -> None:
    """Releases name their dataset by this hash; the search for copies must not change it in passing."""
    info = prepare(tmp_path, "", source="digits", validation_share=0.15, test_share=0.15).dataset.info
    assert info.content_hash == "sha256:f613d19bf76b49e665f6516e3dc499f3ff7bf75a23560ecef9d443050adcaef6"


def discs(colours: list[tuple[int, int, int]], count: int, *, seed: int) -> np.ndarray:
    """Discs on black, one of each of these colours at every place and size: uint8 (count, 32, 32, 3)."""
    places = np.random.default_rng(seed).uniform(10, 22, (count, 3))
    rows, columns = np.mgrid[:32, :32]
    images = np.zeros((count, 32, 32, 3), np.uint8)
    for number, image in enumerate(images):
        y, x, radius = places[number // len(colours)]
        image[(rows - y) ** 2 + (columns - x) ** 2 < (radius / 2) ** 2] = colours[number % len(colours)]
    return images


SHADES = {
    "pure": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    "equally bright": [(150, 75, 75), (75, 150, 75), (75, 75, 150)],
    "near to each other": [(200, 60, 60), (200, 60, 110), (200, 110, 60)],
}


@pytest.mark.parametrize("shades", SHADES)
def test_pictures_that_differ_in_colour_alone_are_no_copies(tmp_path: Path, shades: str) -> None:
    images = discs(SHADES[shades], 240, seed=1)
    for labels in (np.arange(240) % 3, np.zeros(240, np.int64)):
        made = prepared(tmp_path, images, labels, policies={"near_duplicate": "quarantine"})
        assert made.quarantined() == {}
    noise = np.random.default_rng(2).integers(0, 6, images.shape)
    saved = np.clip(images * 0.9 + noise, 0, 255).astype(np.uint8)
    both = np.concatenate([images, saved])
    made = prepared(tmp_path, both, np.arange(480) % 3, policies={"near_duplicate": "quarantine"})
    assert sum(made.dataset.info.counts.values()) == 240


def test_colours_that_change_places_are_no_copies(tmp_path: Path) -> None:
    halves = random_images(80, channels=3, seed=5, size=(2, 2))
    images = np.concatenate([halves, np.roll(halves, 1, axis=3)]).repeat(8, axis=1).repeat(8, axis=2)
    made = prepared(tmp_path, images, np.arange(160) % 2, policies={"near_duplicate": "quarantine"})
    assert made.quarantined() == {}


def test_a_tint_brings_different_pictures_no_nearer() -> None:
    grey = np.random.default_rng(3).integers(60, 100, (50, 16, 16, 1)).repeat(3, axis=3).astype(np.uint8)
    tinted = grey + np.array([0, 0, 150], np.uint8)
    every = np.arange(50)
    distances = []
    for images in (grey, tinted):
        thumbnails = facts_of(images).thumbnails.astype(np.float32)
        distances.append(np.linalg.norm(thumbnails[1:] - thumbnails[:-1], axis=1))
        assert Neighbourhood(facts_of(images).thumbnails, every, 0.04).nearest(every) == {}
    assert (distances[1] > 0.99 * distances[0]).all()


def test_thumbnails_never_make_copies_of_images_with_different_labels(tmp_path: Path) -> None:
    images = random_images(120, size=(16, 16))
    brighter = np.clip(images.astype(int) * 0.9 + 12, 0, 255).astype(np.uint8)
    both, number = np.concatenate([images, brighter]), np.arange(240)
    strict = {"near_duplicate": "quarantine"}
    assert prepared(tmp_path, both, (number % 120 + number // 120) % 2, policies=strict).quarantined() == {}
    found = set(prepared(tmp_path, both, number % 120 % 2, policies=strict).quarantined().values())
    assert found == {"leakage", "near_duplicate"}, "the control"
    equal = np.concatenate([images, images[:1]])
    made = prepared(tmp_path, equal, np.append(np.arange(120) % 2, 1))
    assert made.quarantined() == {"image 0": "contradictory_labels", "image 120": "contradictory_labels"}


def test_classes_without_images_out_of_balance_and_wrong_ranges_are_told(tmp_path: Path) -> None:
    images, labels = random_images(600, size=(8, 8)), (np.arange(600) % 20 == 0) * 2
    with pytest.raises(
        DatasetError, match=r"^empty_class: no usable image of class 1; .*policies\.empty_class to warn"
    ):
        prepared(tmp_path, images, labels)
    lenient = {"validation_share": 0.3, "test_share": 0.3, "policies": {"empty_class": "warn"}}
    made = prepared(tmp_path, images, labels, **lenient)
    assert made.dataset.info.classes == ("0", "2")
    assert set(made.dataset.train.labels) == {0, 1}
    assert made.refused["remarks"][1].startswith("class_imbalance: class 0 has 570 images, 2 only 30; more than")
    assert "class_imbalance" in made.report
    strict = {**lenient, "policies": {"empty_class": "warn", "class_imbalance": "fail"}}
    with pytest.raises(DatasetError, match=r"^class_imbalance"):
        prepared(tmp_path, images, labels, **strict)
    with pytest.raises(DatasetError, match=r"^value_range: the values of all images lie in 0\.\.1; images fill 0"):
        prepared(tmp_path, images // 128, np.arange(600) % 2)
    dark = prepared(tmp_path, images // 128, np.arange(600) % 2, policies={"value_range": "warn"})
    assert any(remark.startswith("value_range") for remark in dark.refused["remarks"])
