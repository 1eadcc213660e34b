"""GANs in PyTorch on a GPU: passes recorded as CUDA graphs, half precision, where images lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_gans import SMALL_PRESETS, same_weights, schedule, small_settings

from troika.datasets.contract import Dataset
from troika.models.contract import Machine, Progress, Schedule
from troika.models.gan import pytorch_data
from troika.models.gan.batches import Order, latents_of_step
from troika.models.gan.figures import FIGURES
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.gan.pytorch_passes import Found, Passes
from troika.models.gan.schedules import Hyper

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
PRESETS = tuple(SMALL_PRESETS)
LONG = schedule(steps=60)
GPU = Machine("cuda")


def fit(
    digits: Dataset,
    preset: str,
    state: Path,
    machine: Machine = GPU,
    long: Schedule = LONG,
    report: Callable[[Progress], None] = lambda _: None,
    **changes: Any,
) -> PyTorchGAN:
    return PyTorchGAN.fit(digits, preset, small_settings(preset, **changes), long, machine, state, report)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_model(digits: Dataset, tmp_path: Path, preset: str) -> None:
    made = [fit(digits, preset, tmp_path / name) for name in "ab"]
    assert same_weights(*made)
    assert not same_weights(made[0], fit(digits, preset, tmp_path / "c", long=schedule(steps=60, seed=4)))


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("r3gan", {}),
        ("dcgan", {}),
        ("article", {}),
        ("r3gan", {"penalty": "wgan_gp", "loss": "wasserstein", "network": {"dropout": 0.2}}),
        ("r3gan", {"penalty": "r1", "penalty_every": 1, "loss": "hinge"}),
    ],
)
def test_recorded_passes_are_those_that_run_kernel_by_kernel(
    digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, preset: str, changes: dict[str, Any]
) -> None:
    recorded = fit(digits, preset, tmp_path / "a", Machine("cuda", "float32", "on"), **changes)
    assert "without CUDA graphs" not in caplog.text
    plain = fit(digits, preset, tmp_path / "b", Machine("cuda", "float32", "off"), **changes)
    for name, value in plain.weights.items():
        np.testing.assert_allclose(recorded.weights[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(
    digits: Dataset, tmp_path: Path, preset: str
) -> None:
    """Also what a GPU's own random numbers have dropped."""

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    often = schedule(steps=130, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(digits, preset, tmp_path / "state", long=often, report=stop)
    steps: list[int] = []
    resumed = fit(digits, preset, tmp_path / "state", long=often, report=lambda made: steps.append(made.step))
    assert steps == [50, 100, 130]  # from the 49th on
    assert same_weights(resumed, fit(digits, preset, tmp_path / "none", long=schedule(steps=130)))


def test_a_recorded_step_draws_its_own_dropout(digits: Dataset) -> None:
    """The same batch at two steps is judged with other values dropped, and at the same step with the same."""
    settings = small_settings("article")
    spec = PyTorchGAN.describe(digits, "article", settings)
    still = Hyper(learning_rate=0.0, beta1=0.5, beta2=0.9, penalty_weight=0.0, average_decay=0.0)
    scores = []
    with PyTorchGAN.open_backend(digits, spec, settings, schedule(), Machine("cuda", compile="on")) as backend:
        for number in (0, 1, 0):
            backend.step(number, Order(1000, 16, 0)(0), latents_of_step(0, 0, 16, 10), still)
            scores.append(backend.figures()[number, FIGURES.index("score_real")])
    assert scores[0] == scores[2] != scores[1]


def test_what_cannot_be_recorded_runs_kernel_by_kernel_and_says_so(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fit(digits, "r3gan", tmp_path / "a", Machine("cuda", "float32", "off"))
    original = Passes.generator

    def reads_back(self: Passes) -> Found:
        found = original(self)
        float(found.noted["generator_loss"])
        return found

    monkeypatch.setattr(Passes, "generator", reads_back)
    stream = torch.cuda.current_stream()
    found = fit(digits, "r3gan", tmp_path / "b", Machine("cuda", "float32"))
    assert caplog.text.count("without CUDA graphs, since the step cannot be recorded: ") == 1
    assert torch.cuda.current_stream() == stream
    assert same_weights(found, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_it_learns_what_a_processor_learns(digits: Dataset, tmp_path: Path, preset: str) -> None:
    """Over a few steps: later, other rounding has grown. Dropout is left out, as each draws its own."""
    changes = {"network": {"dropout": 0.0}} if preset == "article" else {}
    few = schedule(steps=4)
    on_gpu = fit(digits, preset, tmp_path / "a", Machine("cuda", "float32"), few, **changes)
    on_cpu = fit(digits, preset, tmp_path / "b", Machine("cpu"), few, **changes)
    for name, value in on_cpu.weights.items():
        np.testing.assert_allclose(on_gpu.weights[name], value, rtol=0.05, atol=0.01)


def test_half_the_precision_trains_float32_weights_to_about_the_same(digits: Dataset, tmp_path: Path) -> None:
    few = schedule(steps=8)
    half = fit(digits, "r3gan", tmp_path / "a", long=few)
    full = fit(digits, "r3gan", tmp_path / "b", Machine("cuda", "float32"), few)
    assert not same_weights(half, full)
    for name, value in full.weights.items():
        assert half.weights[name].dtype == np.float32
        np.testing.assert_allclose(half.weights[name], value, atol=0.05)


def test_a_large_split_is_sent_batch_by_batch_to_the_same_end(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = fit(digits, "r3gan", tmp_path / "a")
    monkeypatch.setattr(pytorch_data, "_SHARE_OF_GPU", 0.0)
    assert same_weights(fit(digits, "r3gan", tmp_path / "b"), resident)
