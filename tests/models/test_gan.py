import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_gans import SMALL_PRESETS, fit_small, random_dataset, small_settings

from troika.datasets.contract import Dataset
from troika.errors import CheckpointError, ParameterError, TroikaError
from troika.models.contract import Progress, Schedule
from troika.models.gan.batches import Batches, derive_seed
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.gan.settings import GANSettings
from troika.models.latents import draw_latents
from troika.models.registry import model_class, settings_class

PRESETS = tuple(SMALL_PRESETS)


def same_weights(one: PyTorchGAN, other: PyTorchGAN) -> bool:
    left, right = one._generator.state_dict(), other._generator.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def sample(model: PyTorchGAN, count: int = 20) -> np.ndarray:
    labels = np.arange(count) % model.spec.num_classes if model.spec.conditional else None
    return model.sample(draw_latents(range(count), model.spec.latent_size), labels)


def test_registry_finds_the_model() -> None:
    assert model_class("gan", "pytorch") is PyTorchGAN
    assert settings_class("gan") is GANSettings is PyTorchGAN.settings_type


@pytest.mark.parametrize("preset", PRESETS)
def test_training_changes_the_images_and_reports_progress(digits: Dataset, tmp_path: Path, preset: str) -> None:
    reports: list[Progress] = []
    schedule = Schedule(steps=120, batch_size=16, seed=0, checkpoint_seconds=1e9)
    model = PyTorchGAN.fit(digits, preset, small_settings(preset), schedule, tmp_path, reports.append)
    assert [report.step for report in reports] == [50, 100, 120]
    assert all(np.isfinite(list(report.losses.values())).all() for report in reports)
    images = sample(model)
    assert images.shape == (20, 8, 8, 1)
    assert images.dtype == np.uint8
    assert not np.array_equal(images, sample(fit_small(digits, preset, tmp_path)))


def test_a_conditional_model_listens_to_the_label(digits: Dataset, tmp_path: Path) -> None:
    model = fit_small(digits, "r3gan", tmp_path)
    latents = draw_latents([7] * 10, model.spec.latent_size)
    assert len(np.unique(model.sample(latents, np.arange(10)), axis=0)) == 10


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (28, 28, 1), (32, 32, 3), (64, 64, 3)], ids=str)
def test_every_usual_shape_can_be_made(
    tmp_path: Path, preset: str, conditional: bool, shape: tuple[int, int, int]
) -> None:
    dataset = random_dataset(tmp_path / "dataset", shape)
    schedule = Schedule(steps=1, batch_size=2, seed=0, checkpoint_seconds=1e9)
    model = fit_small(dataset, preset, tmp_path / "state", schedule, conditional=conditional)
    assert sample(model, 3).shape == (3, *shape)


@pytest.mark.parametrize("shape", [(8, 16, 1), (4, 4, 1), (20, 20, 3), (7, 7, 1)], ids=str)
def test_another_shape_is_refused_with_those_that_work(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    dataset = random_dataset(tmp_path / "dataset", shape)
    with pytest.raises(ParameterError, match=r"^shape: .* 8, 14, 16, 28, 32"):
        fit_small(dataset, "r3gan", tmp_path / "state")


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch_size": 1}])
def test_a_schedule_out_of_range_is_refused(digits: Dataset, tmp_path: Path, changes: dict[str, int]) -> None:
    schedule = Schedule(**({"steps": 1, "batch_size": 2, "seed": 0, "checkpoint_seconds": 1.0} | changes))
    with pytest.raises(ParameterError, match=next(iter(changes))):
        fit_small(digits, "r3gan", tmp_path, schedule)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ParameterError, match="beta1"):
        small_settings("r3gan", beta1=1.0)
    with pytest.raises(ParameterError, match="loss"):
        small_settings("r3gan", loss="hinge")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_survives_saving_and_loading(digits: Dataset, tmp_path: Path, preset: str) -> None:
    model = fit_small(digits, preset, tmp_path / "state")
    (tmp_path / "checkpoint").mkdir()
    model.save(tmp_path / "checkpoint")
    loaded = PyTorchGAN.load(tmp_path / "checkpoint")
    assert loaded.spec == model.spec
    assert np.array_equal(sample(loaded), sample(model))


def damage(folder: Path, kind: str) -> None:
    weights, description = folder / "generator.safetensors", folder / "model.json"
    match kind:
        case "no weights":
            weights.unlink()
        case "no description":
            description.unlink()
        case "truncated weights":
            weights.write_bytes(weights.read_bytes()[:-7])
        case "a flipped bit":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        case "no JSON":
            description.write_text("{")
        case "a key less":
            description.write_text(json.dumps({"spec": json.loads(description.read_text())["spec"]}))
        case "another network":
            content = json.loads(description.read_text())
            content["settings"]["network"]["hidden_size"] += 1
            description.write_text(json.dumps(content))
        case "another family":
            content = json.loads(description.read_text())
            content["spec"]["family"] = "vae"
            description.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "kind",
    [
        "no weights", "no description", "truncated weights", "a flipped bit", "no JSON", "a key less",
        "another network", "another family",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused(digits: Dataset, tmp_path: Path, kind: str) -> None:
    (tmp_path / "checkpoint").mkdir()
    fit_small(digits, "r3gan", tmp_path / "state").save(tmp_path / "checkpoint")
    damage(tmp_path / "checkpoint", kind)
    with pytest.raises(CheckpointError, match="checkpoint"):
        PyTorchGAN.load(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("preset", "labels"), [("r3gan", None), ("r3gan", [10]), ("r3gan", [0, 1]), ("article", [0])]
)
def test_labels_that_do_not_fit_are_refused(
    digits: Dataset, tmp_path: Path, preset: str, labels: list[int] | None
) -> None:
    model = fit_small(digits, preset, tmp_path)
    latents = draw_latents([0], model.spec.latent_size)
    with pytest.raises(ParameterError, match=r"^label: "):
        model.sample(latents, None if labels is None else np.array(labels))


KILLED_SCHEDULE = Schedule(steps=220, batch_size=16, seed=5, checkpoint_seconds=0)


def kill_while_training(digits: Dataset, preset: str, state: Path) -> None:
    """Train in another process that is killed, by SIGKILL, somewhere after its first report."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from small_gans import *\n"
        "import time\n"
        "def report(progress): print(progress.step, flush=True); time.sleep(0.1)\n"
        f"PyTorchGAN.fit(Dataset.open(Path(sys.argv[2])), {preset!r}, small_settings({preset!r}),"
        f" {KILLED_SCHEDULE!r}, Path(sys.argv[3]), report)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(digits.folder), str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "50\n"
        time.sleep(0.13)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("preset", PRESETS)
def test_a_killed_run_resumes_with_the_result_of_an_uninterrupted_one(
    digits: Dataset, tmp_path: Path, preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    kill_while_training(digits, preset, tmp_path / "state")
    resumed = fit_small(digits, preset, tmp_path / "state", KILLED_SCHEDULE)
    step = int(caplog.messages[0].removeprefix(f"resuming the training in {tmp_path / 'state'} after step "))
    assert 49 <= step < 220
    never_saved = Schedule(steps=220, batch_size=16, seed=5, checkpoint_seconds=1e9)
    assert same_weights(resumed, fit_small(digits, preset, tmp_path / "none", never_saved))


def interrupted_state(digits: Dataset, state: Path) -> None:
    """The state of a run that was broken off in its 50th step."""

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PyTorchGAN.fit(digits, "r3gan", small_settings("r3gan"), KILLED_SCHEDULE, state, stop)


@pytest.mark.parametrize(
    ("changes", "seed"), [({"beta2_end": 0.98}, 5), ({}, 6)], ids=["other settings", "other seed"]
)
def test_a_state_of_another_training_is_not_used(
    digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, float], seed: int
) -> None:
    interrupted_state(digits, tmp_path / "state")
    schedule = Schedule(steps=220, batch_size=16, seed=seed, checkpoint_seconds=1e9)
    found = fit_small(digits, "r3gan", tmp_path / "state", schedule, **changes)
    assert "is of another dataset, preset or schedule" in caplog.text
    assert same_weights(found, fit_small(digits, "r3gan", tmp_path / "none", schedule, **changes))


def test_a_damaged_state_is_not_used(digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted_state(digits, tmp_path / "state")
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    found = fit_small(digits, "r3gan", tmp_path / "state")
    assert "cannot be read" in caplog.text
    assert same_weights(found, fit_small(digits, "r3gan", tmp_path / "none"))


def test_another_seed_gives_another_model(digits: Dataset, tmp_path: Path) -> None:
    other = Schedule(steps=8, batch_size=16, seed=4, checkpoint_seconds=1e9)
    assert same_weights(fit_small(digits, "r3gan", tmp_path), fit_small(digits, "r3gan", tmp_path))
    assert not same_weights(fit_small(digits, "r3gan", tmp_path), fit_small(digits, "r3gan", tmp_path, other))


def test_training_leaves_the_callers_random_state_and_threads_alone(digits: Dataset, tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit_small(digits, "r3gan", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_divergence_names_the_step_and_the_learning_rate(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batches.__call__

    def spoilt(self: Batches, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batch(self, step)
        return images * (float("nan") if step == 4 else 1), labels

    monkeypatch.setattr(Batches, "__call__", spoilt)
    with pytest.raises(TroikaError, match=r"step 5 .* learning_rate_start 0.001 instead of 0.004"):
        fit_small(digits, "r3gan", tmp_path)
    # Nor is a spoilt state ever saved.
    eager = Schedule(steps=8, batch_size=16, seed=3, checkpoint_seconds=0)
    with pytest.raises(TroikaError, match="step 5 "):
        fit_small(digits, "r3gan", tmp_path, eager)
    with pytest.raises(TroikaError, match="step 5 "):
        fit_small(digits, "r3gan", tmp_path, eager)


@given(st.integers(1, 40), st.integers(0, 30))
def test_batches_pass_over_the_whole_split_again_and_again(batch_size: int, steps: int) -> None:
    class Twelve:
        images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
        labels = np.arange(12)

        def __len__(self) -> int:
            return 12

    def draw(order: list[int]) -> dict[int, list[int]]:
        batches = Batches(Twelve(), batch_size, 9, torch.device("cpu"))  # type: ignore[arg-type]
        return {step: batches(step)[1].tolist() for step in order}

    found = draw(list(range(steps)))
    everything = [label for step in range(steps) for label in found[step]]
    for start in range(0, len(everything) - 11, 12):
        assert sorted(everything[start : start + 12]) == list(range(12))
    assert draw(list(reversed(range(steps)))) == found  # a step's batch needs no step before it


def test_a_batch_holds_scaled_images(digits: Dataset) -> None:
    images, labels = Batches(digits.train, 2000, 0, torch.device("cpu"))(0)
    assert images.shape == (2000, 1, 8, 8)
    assert (images.min(), images.max()) == (-1, 1)
    assert labels.dtype == torch.int64


def test_derived_seeds_differ_by_purpose_and_number() -> None:
    seeds = {derive_seed(seed, purpose, number) for seed in (0, 1) for purpose in "ab" for number in range(50)}
    assert len(seeds) == 200
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
