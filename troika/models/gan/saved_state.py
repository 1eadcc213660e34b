"""The state of an unfinished training: one file, replaced as a whole, so that a kill is harmless at any time.

Safetensors with a few lines of text in its header; nothing in it can run code. Every framework writes the same
tensors under the same names. Knows no framework.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from troika.datasets.contract import Dataset
from troika.errors import TroikaError
from troika.models.contract import ModelSpec, Schedule
from troika.models.gan.settings import GANSettings

_FILE = "training.safetensors"
_FORMAT = 3  # to be raised with every change after which an older state must not be continued
_log = logging.getLogger(__name__)

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SavedState:
    """Where a training stands."""

    step: int
    """Steps that are done."""
    tensors: Tensors
    """Networks, moving average and optimisers, by name."""
    memory: dict[str, Any]
    """What else has to be remembered, as JSON."""


def identify_training(dataset: Dataset, spec: ModelSpec, settings: GANSettings, schedule: Schedule) -> str:
    """`sha256:<hex>` of everything that decides a training's result; how often it is saved does not."""
    content = {
        "format": _FORMAT,
        "dataset": dataset.info.content_hash,
        "spec": spec.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "schedule": [schedule.steps, schedule.batch_size, schedule.seed, schedule.ticks],
    }
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_state(folder: Path, identity: str, state: SavedState) -> None:
    """Replace the state in `folder`.

    Raises:
        TroikaError: the folder cannot be written.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in state.tensors.items()}
    header = {"training": identity, "step": str(state.step), "memory": json.dumps(state.memory)}
    # A fixed name: what an earlier kill left half-written is overwritten, not collected.
    temporary = folder / f".{_FILE}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(tensors, header))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / _FILE)
    except OSError as error:
        raise TroikaError(
            f"cannot save the training state in {folder}: {error.strerror}; make room, or give a folder that you "
            "may write"
        ) from None


def load_state(folder: Path, identity: str) -> SavedState | None:
    """The state in `folder`; None where there is none.

    A state of another training, or one that cannot be read, is left alone with a logged warning: the next
    save replaces it.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("training") != identity:
                _log.warning(
                    "training state %s is of another dataset, preset or schedule; starting from step 0 and "
                    "replacing it",
                    path,
                )
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        _log.warning("training state %s cannot be read (%s); starting from step 0", path, error)
        return None
    step = int(header["step"])
    _log.warning("resuming the training in %s after step %d", folder, step)
    return SavedState(step, tensors, json.loads(header["memory"]))
