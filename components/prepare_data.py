"""Prepare data: a source of images -> a validated dataset with train, validation and test splits.

Does not augment or rescale; what training sees is what the source holds.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL.Image import Image
from pydantic import Field, model_validator

from components.step import run_step
from troika.datasets.checks import Refused, assign_splits, find_refused, image_keys
from troika.datasets.contract import SPLITS, Dataset, write_dataset
from troika.datasets.dvc_hash import dvc_hash
from troika.datasets.sources import read_source
from troika.errors import DatasetError
from troika.folders import write_atomic
from troika.pages import write_page
from troika.params import Params
from troika.pictures import data_uri, grid

Share = Field(gt=0, lt=1)


class PrepareDataParams(Params):
    """Section `prepare_data` of params.yaml."""

    source: str
    path: str
    """File of a source that reads one; empty for a built-in set."""
    validation_share: float = Share
    test_share: float = Share
    max_refused_share: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "PrepareDataParams":
        if self.validation_share + self.test_share > 0.8:
            raise ValueError("validation_share + test_share must leave at least 0.2 for training")
        return self


def prepare_data(dataset: Path, report: Path, refused: Path, params: PrepareDataParams) -> None:
    """Read, check and split a set of images.

    Args:
        dataset: folder to write, see troika/datasets/contract.py.
        report: HTML page to write: counts, pictures, what was refused and why.
        refused: JSON file to write: every image that was left out, with its reason.
        params: section `prepare_data`.

    Raises:
        DatasetError: the source is unreadable or empty, too many images are refused, or a class is missing.
    """
    raw = read_source(params.source, Path(params.path) if params.path else None)
    keys = image_keys(raw)
    left_out = find_refused(raw, keys)
    write_atomic(refused, json.dumps([asdict(entry) for entry in left_out], indent=1) + "\n")
    share = len(left_out) / len(raw.images)
    if share > params.max_refused_share:
        raise DatasetError(
            f"{len(left_out)} of {len(raw.images)} images are unusable ({share:.1%}), more than "
            f"max_refused_share = {params.max_refused_share:.1%} allows; the first: image {left_out[0].index}, "
            f"{left_out[0].reason} ({left_out[0].detail}); all are listed in {refused}"
        )
    splits = assign_splits(raw, keys, left_out, params.validation_share, params.test_share)
    written = write_dataset(
        dataset, name=params.source, source=raw.description, classes=raw.classes, splits=splits
    )
    _write_report(report, written, left_out)
    counts = ", ".join(f"{count} {name}" for name, count in written.info.counts.items())
    print(f"{counts}; {len(left_out)} refused; {len(raw.classes)} classes, {raw.images.shape[1:]} pixels")


def _write_report(path: Path, dataset: Dataset, refused: list[Refused]) -> None:
    info = dataset.info
    counts = {
        name: np.bincount(split.labels, minlength=len(info.classes)) for name, split in dataset.splits.items()
    }
    largest = int(counts["train"].max())
    write_page(
        path,
        "data_report.html.j2",
        info=info,
        splits=SPLITS,
        total=sum(info.counts.values()),
        refused=refused,
        class_rows=[
            {
                "name": name,
                "counts": [int(counts[split][label]) for split in SPLITS],
                "width": round(100 * int(counts["train"][label]) / largest),
            }
            for label, name in enumerate(info.classes)
        ],
        grid=data_uri(_one_row_per_class(dataset)),
        dvc_hash=dvc_hash(dataset.folder),
    )


def _one_row_per_class(dataset: Dataset, columns: int = 16) -> Image:
    train = dataset.train
    blank = np.zeros((columns, *dataset.info.shape), np.uint8)
    rows = []
    for label in range(min(len(dataset.info.classes), 20)):
        images = train.images[np.flatnonzero(train.labels == label)[:columns]]
        rows.append(np.concatenate([images, blank[len(images) :]]))
    return grid(np.concatenate(rows), columns, scale=max(1, 32 // dataset.info.shape[0]))


if __name__ == "__main__":
    run_step(prepare_data)
