"""What a dry run of a training prints, as YAML: parameters, sizes, memory. Knows no framework."""

from collections.abc import Mapping
from typing import Any

import yaml

from troika.datasets.contract import Dataset
from troika.models.contract import Needs, Schedule

_CLOSING = """\
# Memory is an estimate for each process; the framework's own libraries come on top.
# Nothing has been trained or written.
"""


def describe_training(dataset: Dataset, chosen: Mapping[str, Any], schedule: Schedule, needs: Needs) -> str:
    """YAML that begins with the parameters of the training as they were `chosen`, and checked."""
    times_seen = schedule.steps * schedule.batch_size / len(dataset.train)
    described = {
        "train": dict(chosen),
        "images": {
            "dataset": dataset.info.name,
            "shape": "x".join(map(str, dataset.info.shape)),
            "classes": len(dataset.info.classes),
            "count": len(dataset.train),
            "times_seen": round(times_seen, 1),
        },
        "machine": {
            "device": needs.device,
            "precision": needs.precision,
            "compiled": needs.compiled,
            "processes": needs.processes,
        },
        "parameters": needs.parameters | {"total": sum(needs.parameters.values())},
        "memory_mib": {
            name: round(size / 2**20, 2)
            for name, size in (needs.memory | {"total": sum(needs.memory.values())}).items()
        },
    }
    return yaml.safe_dump(described, sort_keys=False, allow_unicode=True) + _CLOSING
