"""What happens to images that nothing is wrong with but what others are there: copies, classes, values.

Whatever they come from; bad files are in test_problems.py.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raw_images import Made, encoded, prepare_npz, random_images

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
