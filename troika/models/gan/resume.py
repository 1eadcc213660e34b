"""The state of an unfinished training: one file, replaced as a whole, so that a kill is harmless at any time.

Safetensors with a few lines of text in its header; nothing in it can run code.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from troika.datasets.contract import Dataset
from troika.errors import TroikaError
from troika.models.contract import Schedule
from troika.models.gan.settings import GANSettings

_FILE = "training.safetensors"
_FORMAT = 1  # to be raised with every change after which an older state must not be continued
_log = logging.getLogger(__name__)


def identify_training(dataset: Dataset, preset: str, settings: GANSettings, schedule: Schedule) -> str:
    """`sha256:<hex>` of everything that decides a training's result; how often it is saved does not."""
    content = {
        "format": _FORMAT,
        "dataset": dataset.info.content_hash,
        "preset": preset,
        "settings": settings.model_dump(mode="json"),
        "schedule": [schedule.steps, schedule.batch_size, schedule.seed],
    }
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_state(
    folder: Path, identity: str, step: int, networks: dict[str, nn.Module], optimizers: dict[str, Optimizer]
) -> None:
    """Replace the state in `folder` by that after `step` steps.

    Raises:
        TroikaError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, network in networks.items():
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value.contiguous() for key, value in values.items()}
    # A fixed name: what an earlier kill left half-written is overwritten, not collected.
    temporary = folder / f".{_FILE}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(tensors, {"training": identity, "step": str(step)}))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / _FILE)
    except (OSError, SafetensorError) as error:
        raise TroikaError(
            f"cannot save the training state in {folder}: {error}; give a folder with room"
        ) from None


def load_state(
    folder: Path, identity: str, networks: dict[str, nn.Module], optimizers: dict[str, Optimizer]
) -> int:
    """Put a saved state into networks and optimisers; return the number of steps that are done, 0 if none.

    A state of another training, or one that cannot be read, is left alone with a logged warning: the next
    save replaces it.
    """
    path = folder / _FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Cloned, because results may depend on how torch aligns its own memory.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        _log.warning("training state %s cannot be read (%s); starting from step 0", path, error)
        return 0
    if header.get("training") != identity:
        _log.warning(
            "training state %s is of another dataset, preset or schedule; starting from step 0 and replacing it",
            path,
        )
        return 0
    for name, network in networks.items():
        network.load_state_dict(_below(name, tensors))
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(name, tensors).items():
            index, _, quantity = key.partition(".")
            state.setdefault(int(index), {})[quantity] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    step = int(header["step"])
    _log.warning("resuming the training in %s after step %d", folder, step)
    return step


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
