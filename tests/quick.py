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
    "evaluate": {"samples": {"batches": 2, "batch_size": 100}, "evaluator": {"epochs": 1}},
}
_ANYTHING_PASSES: dict[str, dict[str, Any]] = {
    "label_agreement": {"at_least": 0.0},
    "frechet_distance": {"at_most": 1e9},
    "class_balance": {"at_most": 1.0},
    "constant_images": {"at_most": 1.0},
    "evaluator_accuracy": {"at_least": 0.0},
}


def plain_environment() -> dict[str, str]:
    """This process's environment without what would send a run's results elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TROIKA_")}


def quick_sections(*, promoted: bool) -> dict[str, dict[str, Any]]:
    """All of params.yaml, with little work; `promoted`: with limits that any model keeps, else the real ones."""
    limits = {"evaluate": {"limits": _ANYTHING_PASSES}} if promoted else {}
    return merge(merge(read_sections(REPOSITORY / "params.yaml"), _FAST), limits)
