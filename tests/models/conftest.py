import numpy as np
import pytest
from sklearn.datasets import load_digits

from troika.datasets.contract import Dataset, Split
from troika.datasets.writing import write_dataset


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    raw = load_digits()
    images = np.rint(raw.images * 255 / 16).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [1257, 1527]), strict=True))
    return write_dataset(
        tmp_path_factory.mktemp("digits") / "dataset",
        name="digits",
        source="scikit-learn",
        classes=tuple("0123456789"),
        splits={name: Split(images[part], labels[part]) for name, part in parts.items()},
    )
