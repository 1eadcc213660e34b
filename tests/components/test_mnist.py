"""Real data of another size: MNIST's own files through preparation, training and export."""

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_steps import step_function, tiny_params

from troika.datasets.contract import Dataset, DatasetInfo
from troika.datasets.sources import open_source
from troika.releases.bundle import Bundle


@pytest.fixture
def mnist() -> Path:
    """The folder with the four IDX files; CI must have it."""
    folder = os.environ.get("TROIKA_TEST_MNIST")
    if not folder:
        missing = "TROIKA_TEST_MNIST is not set; set it to a folder with MNIST's four idx .gz files"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)


def run(source: Path, folder: Path, **changes: Any) -> DatasetInfo:
    params = tiny_params("prepare_data", source="auto", path=str(source), **changes)
    step_function("prepare_data")(folder / "dataset", folder / "data.html", folder / "refused.json", params)
    return Dataset.open(folder / "dataset").info


def test_mnist_goes_through_the_steps(mnist: Path, tmp_path: Path) -> None:
    for part in ("images-idx3", "labels-idx1"):
        (tmp_path / "test-set").mkdir(exist_ok=True)
        shutil.copyfile(mnist / f"t10k-{part}-ubyte.gz", tmp_path / "test-set" / f"t10k-{part}-ubyte.gz")
    info = run(tmp_path / "test-set", tmp_path)
    assert info.shape == (28, 28, 1)
    assert sum(info.counts.values()) == 10_000
    assert info.classes == tuple("0123456789")
    assert info.content_hash == "sha256:4266d50a8424bdb6549f9f20254c0d406fea02379dd191edc17d284db0b1ebd2", (
        "released models name it"
    )

    checkpoint = tmp_path / "checkpoint"
    train = tiny_params("train", steps=20)
    step_function("train")(tmp_path / "dataset", checkpoint, tmp_path / "history.jsonl", train)
    step_function("export_model")(checkpoint, tmp_path / "bundle", tiny_params("export_model"))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.spec["image_shape"] == [28, 28, 1]
    assert bundle.lineage["dataset"]["source"] == "idx test-set"
    with np.load(bundle.folder / "golden.npz") as golden:
        assert golden["image"].shape == (20, 28, 28, 1)


def test_a_folder_of_images_made_of_mnist_is_the_same_dataset(mnist: Path, tmp_path: Path) -> None:
    with gzip.open(mnist / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:1500]
    with gzip.open(mnist / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:1500]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "files" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.savez(tmp_path / "same.npz", images=images, labels=labels)
    assert (
        run(tmp_path / "files", tmp_path / "a").content_hash
        == run(tmp_path / "same.npz", tmp_path / "b").content_hash
    )


def test_the_built_in_5000_are_of_mnists_training_images(mnist: Path) -> None:
    with gzip.open(mnist / "train-images-idx3-ubyte.gz") as file:
        rows = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28 * 28)
    with gzip.open(mnist / "train-labels-idx1-ubyte.gz") as file:
        known = {row.tobytes(): label for row, label in zip(rows, file.read()[8:], strict=True)}
    source = open_source(tiny_params("prepare_data", source="mnist5k", path=""))
    for block in source.blocks(Path()):
        assert [known.get(image.tobytes()) for image in block.images] == block.labels.tolist()
