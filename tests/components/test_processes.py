"""Two PyTorch processes on one machine train the model that one process trains with the same batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_steps import Paths, run_quietly, write_params


def trained(made: Paths, folder: Path, processes: int, batch_size: int = 16, **changes: Any) -> Path:
    folder.mkdir()
    train = {"processes": processes, "steps": 50, "batch_size": batch_size, "device": "cpu", **changes}
    status, printed = run_quietly(
        "train", "--dataset", made.dataset, "--checkpoint", folder / "checkpoint",
        # All that dvc.yaml and pods ask for: torchrun must not take an option for one of its own.
        "--history", folder / "history.jsonl", "--state", folder / "state",
        "--log", folder / "log", "--report", folder / "training.html",
        "--params", write_params(folder, {"train": train}),
    )  # fmt: skip
    assert status == 0, printed
    assert (folder / "training.html").is_file()
    return folder


def losses(folder: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return np.array([[line["generator_loss"], line["discriminator_loss"]] for line in lines])


def weights(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "checkpoint" / "model" / "generator.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_two_processes_share_one_global_batch(made: Paths, tmp_path: Path) -> None:
    one, two = trained(made, tmp_path / "one", 1), trained(made, tmp_path / "two", 2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    apart = np.abs(weights(two) - weights(one)).max()
    assert apart < 1e-3
    # The control: half of the batch alone gives another model.
    half = trained(made, tmp_path / "half", 1, batch_size=8)
    assert np.abs(weights(half) - weights(one)).max() > 10 * apart


def test_each_process_drops_and_mixes_its_own_share(made: Paths, tmp_path: Path) -> None:
    """Random numbers of the whole batch: of dropout, and of where WGAN-GP looks."""
    network = {"kind": "convolutional", "channels": 4, "max_channels": 8, "hidden_size": 8, "dropout": 0.5}
    changes = {"presets": {"r3gan": {"network": network, "loss": "wasserstein", "penalty": "wgan_gp"}}}
    one, two = (trained(made, tmp_path / f"{number}", number, **changes) for number in (1, 2))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert np.abs(weights(two) - weights(one)).max() < 1e-3
