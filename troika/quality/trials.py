"""The trials of a sweep as a file that grows: what each changes, then what came of it. Judges nothing.

A file, and not an argument: one argument of a process holds at most 128 KiB, the trials of a sweep may take more.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from troika.errors import ParameterError
from troika.folders import write_atomic
from troika.params import nested

Trial = dict[str, Any]
"""`point`: nested changes; with a result also `decision`, and `metrics`: figure -> value."""


def write_trials(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write the trials of a table: one name `STEP.KEY` a column, one trial a row."""
    _write(path, [{"point": nested(dict(zip(names, row, strict=True)))} for row in rows])


def read_trials(path: Path) -> list[Trial]:
    """Read what `write_trials` or `add_results` wrote."""
    trials: list[Trial] = json.loads(path.read_text(encoding="utf-8"))
    return trials


def result_of(number: int, decision: str, metrics: Path) -> str:
    """Return one trial's result as text for `add_results`.

    Args:
        number: the trial's place among all, from 0.
        decision: of the gate.
        metrics: the file that evaluate wrote: figure name -> number.
    """
    figures: Mapping[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return json.dumps(
        {
            "number": number,
            "decision": decision,
            "metrics": {name: float(value) for name, value in figures.items()},
        }
    )


def add_results(trials: Path, results: Iterable[str], target: Path) -> None:
    """Write trials with results added, each to the one of its number, in whatever order they come."""
    found = read_trials(trials)
    for text in results:
        result = json.loads(text)
        found[int(result.pop("number"))] |= result
    _write(target, found)


def finished(path: Path) -> list[Trial]:
    """Read trials that all have a result.

    Raises:
        ParameterError: some have none.
    """
    found = read_trials(path)
    if missing := [str(number) for number, trial in enumerate(found) if "metrics" not in trial]:
        raise ParameterError(f"trials {', '.join(missing)} have no result; run the sweep again")
    return found


def _write(path: Path, trials: Sequence[Trial]) -> None:
    write_atomic(path, json.dumps(trials, indent=1) + "\n")
