"""The data report: one HTML page with all that a person should see before training on a dataset."""

import html
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from troika.datasets.contract import SPLITS, Dataset
from troika.datasets.drift import BINS, Drift, brightness_counts
from troika.datasets.preparation import Prepared
from troika.datasets.problems import Findings
from troika.pages import write_page
from troika.pictures import data_uri, grid

_MOST_ROWS, _COLUMNS = 20, 16
_SHEET_BYTES = 500_000
"""Pixels on the sheet: a page must stay small, also where pictures do not compress."""
_MOST_LISTED = 50
_MOST_SIZES = 12


def write_report(
    path: Path, dataset: Dataset, prepared: Prepared, findings: Findings, dvc_hash: str, drift: Drift | None
) -> None:
    """Write the page.

    Args:
        path: HTML file to write.
        dataset: as it was written.
        prepared: facts of all images of the source.
        findings: what was found in them.
        dvc_hash: of the dataset folder.
        drift: against an earlier version, if one was named.
    """
    info = dataset.info
    counts = {
        name: np.bincount(split.labels, minlength=len(info.classes)) for name, split in dataset.splits.items()
    }
    largest = max(int(counts["train"].max()), 1)
    brightness = brightness_counts(prepared.facts.brightness[prepared.splits >= 0])
    problems: dict[str, dict[str, int]] = {}
    for entry in findings.quarantined:
        problems.setdefault(entry.problem, {"quarantined": 0, "used": 0})["quarantined"] += 1
    for name, count in findings.warning_counts.items():
        problems.setdefault(name, {"quarantined": 0, "used": 0})["used"] = count
    write_page(
        path,
        "data_report.html.j2",
        info=info,
        splits=SPLITS,
        total=sum(info.counts.values()),
        read=prepared.total,
        problems=sorted(problems.items()),
        quarantined=sorted(findings.quarantined, key=lambda entry: entry.index)[:_MOST_LISTED],
        quarantined_count=len(findings.quarantined),
        warnings=findings.warnings[:_MOST_LISTED],
        warning_count=sum(findings.warning_counts.values()),
        remarks=[*findings.notes, *findings.remarks],
        class_rows=[
            {
                "name": name,
                "counts": [int(counts[split][label]) for split in SPLITS],
                "width": round(100 * int(counts["train"][label]) / largest),
            }
            for label, name in enumerate(info.classes)
        ],
        brightness=_histogram(brightness, None if drift is None else drift.previous.brightness),
        sizes=_sizes(prepared),
        shown_classes=min(len(info.classes), _MOST_ROWS),
        grid=data_uri(_one_row_per_class(dataset)),
        dvc_hash=dvc_hash,
        drift=drift,
        class_changes=[] if drift is None else _class_changes(dataset, drift),
    )


def _sizes(prepared: Prepared) -> list[dict[str, Any]]:
    """Sizes of the files, the most frequent first."""
    common = prepared.sizes.most_common(_MOST_SIZES)
    rows = [(f"{width} x {height}", count) for (width, height), count in common]
    rest = sum(prepared.sizes.values()) - sum(count for _, count in common)
    if rest:
        rows.append((f"{len(prepared.sizes) - _MOST_SIZES} other sizes", rest))
    largest = max((count for _, count in rows), default=1)
    return [{"name": name, "count": count, "width": round(100 * count / largest)} for name, count in rows]


def _class_changes(dataset: Dataset, drift: Drift) -> list[dict[str, Any]]:
    before = drift.previous.class_counts
    after = {
        name: sum(int((split.labels == label).sum()) for split in dataset.splits.values())
        for label, name in enumerate(dataset.info.classes)
    }
    names = [*after, *(name for name in before if name not in after)]
    return [
        {"name": name, "before": before.get(name, 0), "after": after.get(name, 0)}
        for name in names
        if before.get(name, 0) != after.get(name, 0)
    ]


def _histogram(counts: NDArray[np.int64], before: NDArray[np.int64] | None) -> str:
    """Bars as an SVG picture; the earlier version as a line."""
    shares = counts / max(counts.sum(), 1)
    old = None if before is None else before / max(before.sum(), 1)
    top = max(shares.max(), 0 if old is None else old.max(), 1e-9)
    width, height = 640, 120
    step = width / BINS
    parts = [f'<svg viewBox="0 0 {width} {height + 22}" role="img" aria-label="Histogram of mean brightness">']
    for number, share in enumerate(shares):
        tall = height * share / top
        title = html.escape(f"{number * 8} to {number * 8 + 7}: {counts[number]} images")
        parts.append(
            f'<rect x="{number * step + 1:.1f}" y="{height - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}"><title>{title}</title></rect>'
        )
    if old is not None:
        points = " ".join(
            f"{(number + 0.5) * step:.1f},{height - height * share / top:.1f}" for number, share in enumerate(old)
        )
        parts.append(f'<polyline points="{points}"/>')
    for level in (0, 64, 128, 192, 255):
        anchor = {0: "start", 255: "end"}.get(level, "middle")
        parts.append(
            f'<text x="{level / 256 * width:.0f}" y="{height + 18}" text-anchor="{anchor}">{level}</text>'
        )
    return "".join([*parts, "</svg>"])


def _one_row_per_class(dataset: Dataset) -> Image.Image:
    train, (height, width, channels) = dataset.train, dataset.info.shape
    rows = min(len(dataset.info.classes), _MOST_ROWS)
    columns = max(4, min(_COLUMNS, _SHEET_BYTES // (rows * height * width * channels)))
    if rows == 1:
        columns *= max(1, min(4, _SHEET_BYTES // (columns * height * width * channels)))
    sheet = []
    for label in range(rows):
        chosen = np.flatnonzero(train.labels == label)[:columns]
        images = np.zeros((columns, height, width, channels), np.uint8)
        images[: len(chosen)] = train.images[chosen]
        sheet.append(images)
    picture = grid(np.concatenate(sheet), 16 if rows == 1 else columns, scale=max(1, 32 // height))
    while picture.width * picture.height * channels > 2 * _SHEET_BYTES:
        picture = picture.reduce(2)
    return picture
