"""The report of an evaluation: one self-contained HTML page, to be read by people and shown by Kubeflow.

Decides and measures nothing. No script, no font and no file from elsewhere: Kubeflow shows it in a closed frame.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from troika.datasets.contract import Images
from troika.folders import write_atomic
from troika.pages import render_page
from troika.quality.axes import Point, figure_axis
from troika.quality.gate import Measure
from troika.quality.judge import Judged
from troika.quality.real import RealSide
from troika.quality.report_samples import (
    LARGEST,
    SHOWN_CLASSES,
    Plan,
    class_rows,
    columns_of,
    commonest_confusions,
    confusion_picture,
    gallery,
    pairs,
    tile_size,
)
from troika.quality.tally import MAY_EXCEED_1
from troika.quality.verdict import Verdict, title

MAX_BYTES = 2_000_000
"""Of a page; Kubeflow loads it whole."""

_TABLE_OF = 20
"""Classes that a confusion matrix may have as a table; of more it is a picture."""


_PLANS = [Plan(1, True), *(Plan(share, False) for share in (1, 0.7, 0.5, 0.35, 0.25, 0.1))]
"""The first with which the page is small enough."""


def write_report(
    path: Path,
    *,
    verdict: Verdict,
    judged: Judged,
    real: RealSide,
    spec: Mapping[str, Any],
    lineage: Mapping[str, Any],
    interpolation: Images | None = None,
    rollback: str | None = None,
) -> None:
    """Write the page, at most 2 MB: of large images it shows fewer, as WebP.

    Args:
        path: HTML file.
        verdict: what the page says.
        judged: what it was made of; the page takes samples from it.
        real: what was judged against.
        spec: of the bundle.
        lineage: of the bundle.
        interpolation: (R, steps, H, W, C), see interpolation.py; of a conditional model, row r is of class r.
        rollback: the command that takes back a release.
    """
    for plan in _PLANS:
        page = _page(verdict, judged, real, spec, lineage, interpolation, rollback, plan)
        if len(page.encode()) <= MAX_BYTES:
            break
    write_atomic(path, page)


def _page(
    verdict: Verdict,
    judged: Judged,
    real: RealSide,
    spec: Mapping[str, Any],
    lineage: Mapping[str, Any],
    interpolation: Images | None,
    rollback: str | None,
    plan: Plan,
) -> str:
    ours, theirs = judged.tally, judged.champion
    height, width, _ = real.dataset.info.shape
    tile = tile_size(max(height, width))
    columns = plan.of(columns_of(tile, alone=theirs is None))
    drawn = ours.samples > 0
    names = real.dataset.info.classes
    classes, domain = class_rows(ours, real, plan) if drawn and real.has_classes else ([], (0.0, 1.0))
    return render_page(
        "evaluation.html.j2",
        verdict=verdict,
        headline=verdict.headline.partition(": "),
        spec=spec,
        lineage=lineage,
        dataset=real.dataset.info,
        figures=[_figure_row(measure, verdict) for measure in verdict.measures],
        challenge_axis=_challenge_axis(verdict),
        gallery=gallery(ours, theirs, real, plan, columns) if drawn else [],
        classes=classes,
        class_domain=domain,
        shown_classes=SHOWN_CLASSES,
        confusion=ours.confusion.tolist() if drawn and ours.conditional and len(names) <= _TABLE_OF else [],
        confusion_picture=confusion_picture(ours) if drawn and ours.conditional and len(names) > _TABLE_OF else "",
        confusions=commonest_confusions(ours, names) if drawn and ours.conditional else [],
        conditional=ours.conditional,
        by_class=ours.conditional or (theirs is not None and theirs.conditional),
        only_one_asks=theirs is not None and ours.conditional != theirs.conditional,
        pairs=pairs(ours, plan) if drawn else [],
        interpolation=[] if interpolation is None else [plan.tiles(row) for row in interpolation[: plan.of(10)]],
        tile=tile,
        columns=columns,
        pixelated=max(height, width) < LARGEST,
        rollback=rollback,
        all_recorded=json.dumps(lineage, indent=1, ensure_ascii=False),
        all_params=json.dumps(verdict.params, indent=1, ensure_ascii=False),
        title=title,
        number=_number,
    )


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _figure_row(measure: Measure, verdict: Verdict) -> dict[str, Any]:
    other = next((entry for entry in verdict.champion_measures if entry.name == measure.name), None)
    axis = ""
    if measure.value is not None:
        axis = figure_axis(
            f"{title(measure.name)}: {_in_words(measure, other)}",
            Point(measure.value, measure.low, measure.high),
            champion=None if other is None or other.value is None else Point(other.value, other.low, other.high),
            floor=measure.floor,
            at_least=measure.at_least,
            at_most=measure.at_most,
            bounds=(-np.inf, np.inf) if measure.name in MAY_EXCEED_1 else (0.0, 1.0),
        )
    return {"measure": measure, "champion": other, "axis": axis}


def _in_words(measure: Measure, champion: Measure | None) -> str:
    words = f"{_number(measure.value)}, interval {_number(measure.low)} to {_number(measure.high)}"
    if measure.floor is not None:
        words += f"; real images {_number(measure.floor)}"
    if measure.limit is not None:
        words += f"; limit {measure.limit}"
    if champion is not None and champion.value is not None:
        words += f"; champion {_number(champion.value)}"
    return words


def _challenge_axis(verdict: Verdict) -> str:
    held = verdict.challenge
    if held is None:
        return ""
    return figure_axis(
        f"Challenger by champion: {held.ratio:.3g}, interval {held.low:.3g} to {held.high:.3g}; "
        f"limit {held.needed:.3g}; 1 is as good",
        Point(held.ratio, held.low, held.high),
        floor=1.0,
        at_most=held.needed,
        logarithmic=True,
        width=340,
    )
