"""Compare the trials of a sweep: which is best, and one page that shows them all. Judges nothing itself."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from troika.errors import ParameterError
from troika.pages import write_page

TABLE_MARK, WINNER_MARK = "| ", "winner: "
"""How lines of the table begin in a step's log, from which `troika sweep --submit` takes them."""


def best_trial(trials: Sequence[Mapping[str, Any]], metric: str, goal: str) -> int:
    """Index of the best trial: of those that the gate promotes if there are any, else of all.

    Args:
        trials: each with `point` (nested changes), `decision` and `metrics`.
        metric: the name of what decides.
        goal: minimize or maximize.

    Raises:
        ParameterError: no trial has this metric as a finite number.
    """

    def value(trial: Mapping[str, Any]) -> float:
        return float(trial["metrics"].get(metric, math.nan))

    known = [number for number, trial in enumerate(trials) if math.isfinite(value(trial))]
    if not known:
        names = sorted({name for trial in trials for name in trial["metrics"]})
        raise ParameterError(f"objective.metric: no trial has {metric!r}; the metrics are {', '.join(names)}")
    promoted = [number for number in known if trials[number]["decision"] == "promote"]
    sign = 1 if goal == "minimize" else -1
    return min(promoted or known, key=lambda number: (sign * value(trials[number]), number))


def write_comparison(path: Path, trials: Sequence[Mapping[str, Any]], best: int, metric: str, goal: str) -> None:
    """Write the page, self-contained HTML."""
    changed = [changed_values(trial["point"]) for trial in trials]
    parameters = sorted({name for point in changed for name in point})
    # The verdict has a column of its own.
    metrics = sorted({name for trial in trials for name in trial["metrics"]} - {metric, "promoted"})
    sign = 1 if goal == "minimize" else -1
    rows = sorted(
        (
            {
                "number": number,
                "best": number == best,
                "decision": trial["decision"],
                "point": [changed[number].get(name, "") for name in parameters],
                "metrics": [_shown(trial["metrics"].get(name)) for name in [metric, *metrics]],
                "order": sign * float(trial["metrics"].get(metric, math.inf * sign)),
            }
            for number, trial in enumerate(trials)
        ),
        key=lambda row: (not row["best"], row["decision"] != "promote", row["order"]),
    )
    write_page(
        path,
        "comparison.html.j2",
        rows=rows,
        parameters=parameters,
        metrics=[metric, *metrics],
        metric=metric,
        goal=goal,
    )


def comparison_lines(trials: Sequence[Mapping[str, Any]], best: int, metric: str) -> list[str]:
    """Return the trials as lines of a table, and the winner below it: what a step's log is to show."""
    changed = [changed_values(trial["point"]) for trial in trials]
    names = sorted({name for values in changed for name in values})
    rows = [
        [
            str(number),
            *(str(changed[number].get(name, "")) for name in names),
            str(trial["decision"]),
            _shown(trial["metrics"].get(metric)),
        ]
        for number, trial in enumerate(trials)
    ]
    values = ", ".join(f"{name}={value}" for name, value in changed[best].items())
    return [
        *text_table(["trial", *names, "decision", metric], rows),
        f"{WINNER_MARK}trial {best}: {values or 'nothing changed'}",
    ]


def changed_values(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's changes by dotted name, whole numbers as such."""
    return {name: _whole(value) for name, value in _flat(point)}


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, columns aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        TABLE_MARK + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _flat(point: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in point.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _whole(value: Any) -> Any:
    # Kubeflow hands over 300 as 300.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"
