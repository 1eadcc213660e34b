"""Steps with so little work that a test can run them, and their parameters as a file."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from quick import quick_sections

from components.step import resolve_params, run_step
from troika.params import merge

_PRESETS = {
    "r3gan": {
        "network": {"kind": "convolutional", "channels": 4, "max_channels": 8, "hidden_size": 8},
        "latent_size": 4,
    },
    "dcgan": {"network": {"kind": "dcgan", "channels": 4, "max_channels": 8}, "latent_size": 4},
    "article": {
        "network": {"kind": "mlp", "generator_widths": [16], "discriminator_widths": [16], "dropout": 0.3},
        "latent_size": 4,
    },
}


@dataclass(frozen=True)
class Paths:
    """What the steps have written."""

    folder: Path

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def history(self) -> Path:
        return self.folder / "history.jsonl"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def evaluator(self) -> Path:
        return self.folder / "evaluator.onnx"

    @property
    def champion(self) -> Path:
        return self.folder / "champion.json"

    @property
    def verdict(self) -> Path:
        return self.folder / "verdict.json"

    @property
    def reference(self) -> Path:
        return self.folder / "reference.npz"


def step_function(name: str) -> Any:
    return getattr(import_module(f"components.{name}"), name)


def tiny_sections(changes: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """params.yaml with narrow networks and limits that any model keeps."""
    tiny = {
        "train": {"steps": 60, "batch_size": 16, "presets": _PRESETS},
        "export_model": {"model_name": "tiny"},
    }
    return merge(merge(quick_sections(promoted=True), tiny), changes or {})


def tiny_params(step: str, **changes: Any) -> Any:
    """A step's typed parameters."""
    return resolve_params(step_function(step), tiny_sections()[step], changes, where="tiny")


def write_params(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_sections(changes)))
    return path


def run_quietly(step: str, *arguments: str | Path) -> tuple[int, str]:
    """A step by its command line, in this process: exit status and everything that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            run_step(step_function(step), [str(argument) for argument in arguments])
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()
