"""Parameters under which the whole graph runs in seconds, for tests of what happens around the model."""

import os
from pathlib import Path
from typing import Any

from components.step import read_sections
from troika.params import merge

REPOSITORY = Path(__file__).parents[1]

_FAST = {
    "train": {"steps": 20},
    "export_model": {"parity_samples": 8},
    "train_evaluator": {"steps": 19},
    "evaluate": {"samples": {"batches": 2, "batch_size": 100, "budget": 2}, "self_test": False},
}
_NEVER_REACHED = {"at_least": -1e9, "at_most": 1e9, "below_floor": 1e9, "above_floor": 1e9}


def plain_environment() -> dict[str, str]:
    """This process's environment without what would send a run's results elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TROIKA_")}


def quick_sections(*, promoted: bool) -> dict[str, dict[str, Any]]:
    """All of params.yaml, with little work; `promoted`: with limits that any model keeps, else the real ones."""
    sections = merge(read_sections(REPOSITORY / "params.yaml"), _FAST)
    if not promoted:
        return sections
    limits = {
        name: {kind: _NEVER_REACHED[kind] for kind in limit}
        for name, limit in sections["evaluate"]["limits"].items()
    }
    return merge(sections, {"evaluate": {"limits": limits, "champion": {"must": "ignore"}}})
