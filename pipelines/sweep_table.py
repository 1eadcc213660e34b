"""Print a sweep at the terminal: its trials before, and what came of them after."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.run_tasks import RunTasks
from pipelines.sweep import PIPELINE_NAME
from pipelines.workloads import Workloads
from troika.quality.comparison import TABLE_MARK, WINNER_MARK, changed_values, text_table


def sweep_version(package: Path) -> str:
    """Return the name of a sweep's version: the same content has the same name."""
    return f"{PIPELINE_NAME}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"


def points_table(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the trials' changes as lines of a table."""
    changed = [changed_values(point) for point in points]
    names = sorted({name for values in changed for name in values})
    rows = [[str(number), *(str(values.get(name, "")) for name in names)] for number, values in enumerate(changed)]
    return text_table(["trial", *names], rows)


def read_comparison(namespace: str, run: Any) -> list[str]:
    """Return the table and the winner out of the log of `compare`, or the command that shows them."""
    tasks = RunTasks(run)
    attempts = tasks.attempts("compare")
    log = Workloads(namespace).pod_log(tasks.workflow, attempts[-1]) if attempts else None
    lines = [line for line in (log or "").splitlines() if line.startswith((TABLE_MARK, WINNER_MARK))]
    if lines:
        return lines
    number = attempts[-1].rpartition("-")[2] if attempts else "compare"
    return [
        "the table of trials is in the run's page, and in a log that cannot be read from here: "
        f"kubectl -n {namespace} logs -c main "
        f"$(kubectl -n {namespace} get pods -o name | grep -e {number})"
    ]
