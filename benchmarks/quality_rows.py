"""For time_to_quality: what is said of finished trainings. Trains nothing."""

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""A Run's fields, and `looks`: those of Look, in their order."""


def seconds_to(row: Row, threshold: float) -> float | None:
    """Seconds of training until the first look with a Fréchet distance below the threshold."""
    return next((look["seconds"] for look in row["looks"] if look["frechet_distance"] < threshold), None)


def line(row: Row, thresholds: Sequence[float]) -> str:
    """One training in words."""
    looks, last = row["looks"], row["looks"][-1]
    passed = []
    for threshold in thresholds:
        seconds = seconds_to(row, threshold)
        passed.append(f"below {threshold} {'never' if seconds is None else f'after {seconds:.1f} s'}")
    took = sum(look["look_seconds"] for look in looks) / len(looks)
    return (
        f"{row['preset']} {row['framework']} seed {row['seed']}: {', '.join(passed)}; lowest {_lowest(row):.2f}, "
        f"at the end {last['frechet_distance']:.2f}; {last['step']:,} steps, {last['seconds']:.1f} s, "
        f"{last['wall_seconds']:.1f} wall s; {len(looks)} looks of {took:.2f} s"
    )


def header(thresholds: Sequence[float]) -> list[str]:
    """Of the table."""
    below = [f"s to below {threshold}" for threshold in thresholds]
    return [
        "preset",
        "framework",
        *below,
        "lowest FD",
        "FD at the end",
        "steps",
        "s",
        "wall s",
        "images/s",
    ]


def cells(rows: list[Row], thresholds: Sequence[float]) -> list[str]:
    """Of the table, for trainings that differ in their seed alone."""
    lasts = [row["looks"][-1] for row in rows]
    speeds = [row["batch_size"] * last["step"] / last["seconds"] for row, last in zip(rows, lasts, strict=True)]
    return [
        rows[0]["preset"],
        rows[0]["framework"],
        *(_to(rows, threshold) for threshold in thresholds),
        _span([_lowest(row) for row in rows], ".2f"),
        _span([last["frechet_distance"] for last in lasts], ".2f"),
        f"{statistics.median(last['step'] for last in lasts):,.0f}",
        f"{statistics.median(last['seconds'] for last in lasts):,.0f}",
        f"{statistics.median(last['wall_seconds'] for last in lasts):,.0f}",
        f"{statistics.median(speeds):,.0f}",
    ]


def _to(rows: list[Row], threshold: float) -> str:
    """Median and range of those that passed; if some did not, how many did."""
    passed = [seconds for row in rows if (seconds := seconds_to(row, threshold)) is not None]
    if not passed:
        return f"not in {min(row['looks'][-1]['seconds'] for row in rows):.0f} s"
    return (
        _span(passed, ".1f")
        if len(passed) == len(rows)
        else f"{len(passed)} of {len(rows)}: {_span(passed, '.1f')}"
    )


def _lowest(row: Row) -> float:
    return float(min(look["frechet_distance"] for look in row["looks"]))


def _span(values: list[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
