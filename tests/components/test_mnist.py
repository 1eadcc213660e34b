"""Real data of another size: MNIST from an .npz file through preparation, training and export."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_steps import step_function, tiny_params

from troika.datasets.contract import Dataset
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


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file of bytes: two zeros, type 8, number of axes, sizes as big-endian int32, data."""
    content = gzip.decompress(path.read_bytes())
    assert content[:3] == b"\0\0\x08"
    sizes = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def test_mnist_goes_through_the_steps(mnist: Path, tmp_path: Path) -> None:
    images, labels = (read_idx(mnist / f"t10k-{name}.gz") for name in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    assert (images.shape, labels.shape) == ((10_000, 28, 28), (10_000,))
    np.savez(tmp_path / "mnist.npz", images=images, labels=labels)

    prepare = tiny_params("prepare_data", source="npz", path=str(tmp_path / "mnist.npz"))
    dataset = tmp_path / "dataset"
    step_function("prepare_data")(dataset, tmp_path / "data.html", tmp_path / "refused.json", prepare)
    info = Dataset.open(dataset).info
    assert info.shape == (28, 28, 1)
    assert sum(info.counts.values()) == 10_000
    assert info.classes == tuple("0123456789")

    checkpoint = tmp_path / "checkpoint"
    step_function("train")(dataset, checkpoint, tmp_path / "history.jsonl", tiny_params("train", steps=20))
    step_function("export_model")(checkpoint, tmp_path / "bundle", tiny_params("export_model"))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.spec["image_shape"] == [28, 28, 1]
    assert bundle.lineage["dataset"]["source"] == "npz mnist.npz"
    with np.load(bundle.folder / "golden.npz") as golden:
        assert golden["image"].shape == (20, 28, 28, 1)
