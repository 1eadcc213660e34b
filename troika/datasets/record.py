"""What a model's record says of the dataset that it was trained on."""

from typing import Any

from troika.datasets.contract import Dataset
from troika.datasets.dvc_hash import dvc_hash


def dataset_record(dataset: Dataset) -> dict[str, Any]:
    """Name, source, origin (DVC revision included), hashes and counts, as plain data for a lineage."""
    info = dataset.info
    return {
        "name": info.name,
        "source": info.source,
        "origin": info.origin.model_dump(exclude_defaults=True),
        "content_hash": info.content_hash,
        "dvc_hash": dvc_hash(dataset.folder),
        "counts": info.counts,
    }
