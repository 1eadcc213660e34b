"""What a dry run says of a training's size is what the training then has: parameters, bytes, images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from quick import REPOSITORY
from small_gans import SMALL_PRESETS, random_dataset, schedule, small_settings
from torch.profiler import ProfilerActivity, profile

from troika.datasets.contract import Dataset
from troika.errors import ParameterError
from troika.models.contract import Machine, Needs
from troika.models.gan import pytorch_data
from troika.models.gan.batches import latents_of_step
from troika.models.gan.model import GAN
from troika.models.gan.needs import memory_of, parameters_of
from troika.models.gan.pytorch_gan import PyTorchGAN, records_passes
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings
from troika.models.registry import model_class
from troika.params import read_params

FRAMEWORKS = ("pytorch", "tensorflow")
CPU = Machine(device="cpu", compile="off")


def needs(dataset: Dataset, preset: str, framework: str = "pytorch", machine: Machine = CPU) -> Needs:
    settings = small_settings(preset)
    return model_class("gan", framework).needs(dataset, preset, settings, schedule(), machine, 1)


def real_settings(preset: str) -> GANSettings:
    """As params.yaml has them."""
    return GANSettings.parse(read_params(REPOSITORY / "params.yaml")["train"]["presets"][preset], preset)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("preset", sorted(SMALL_PRESETS))
def test_parameters_and_optimiser_are_those_of_the_networks_that_train(
    digits: Dataset, framework: str, preset: str
) -> None:
    kind, settings = model_class("gan", framework), small_settings(preset)
    assert issubclass(kind, GAN)
    said = needs(digits, preset, framework)
    spec = kind.describe(digits, preset, settings)
    with kind.open_backend(digits, spec, settings, schedule(), CPU) as backend:
        state = backend.state()
    moments = {name: value for name, value in state.items() if "_adam." in name}
    for network in ("generator", "discriminator"):
        trained = sum(value.size for name, value in moments.items() if name.startswith(f"{network}_adam.first."))
        assert said.parameters[network] == trained > 0
    assert said.memory["optimiser"] == sum(value.nbytes for value in moments.values())
    weights = [
        value.nbytes
        for name, value in state.items()
        if name.partition(".")[0] in ("generator", "discriminator", "average") and "running_" not in name
    ]
    assert said.memory["weights"] == sum(weights)


def test_the_articles_networks_have_the_parameters_that_its_text_gives(tmp_path: Path) -> None:
    """100-256-512-1024-784 without biases before batch normalisation, and 784-1024-512-1."""
    dataset = random_dataset(tmp_path / "dataset", (28, 28, 1))
    said = PyTorchGAN.needs(dataset, "article", real_settings("article"), schedule(), CPU, 1)
    normalised = 2 * (256 + 512 + 1024)
    assert said.parameters == {
        "generator": 100 * 256 + 256 * 512 + 512 * 1024 + 1024 * 784 + 784 + normalised,
        "discriminator": 784 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1,
    }


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1)], ids=str)
@pytest.mark.parametrize("preset", sorted(SMALL_PRESETS))
def test_the_estimate_is_near_what_a_step_takes_at_its_peak(
    tmp_path: Path, preset: str, shape: tuple[int, int, int]
) -> None:
    """Of the presets as they are, and with an allocator that is watched."""
    dataset, settings = random_dataset(tmp_path / "dataset", shape), real_settings(preset)
    spec, often = PyTorchGAN.describe(dataset, preset, settings), schedule(batch_size=64)
    said = PyTorchGAN.needs(dataset, preset, settings, often, CPU, 1).memory
    hyper = Hyper(0.001, 0.5, 0.9, float(settings.penalty != "none"), 0.7)
    with PyTorchGAN.open_backend(dataset, spec, settings, often, CPU) as backend:
        given = np.arange(64) % 12, latents_of_step(0, 0, 64, settings.latent_size), hyper
        backend.step(0, *given)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            backend.step(1, *given)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    peak = np.cumsum([event.nbytes() for event in events]).max()
    assert 0.6 < peak / (said["activations"] + said["gradients"]) < 1.3


@pytest.mark.parametrize(("preset", "times"), [("r3gan", 2), ("article", 1)])
def test_recorded_passes_keep_gradients_of_both_networks_for_each_kind_of_step(
    digits: Dataset, preset: str, times: int
) -> None:
    """r3gan has two kinds of steps: with the penalty and without."""
    settings = small_settings(preset)
    spec = PyTorchGAN.describe(digits, preset, settings)
    numbers = parameters_of(settings, spec).values()
    taking_turns, recorded = (
        memory_of(settings, spec, schedule(), processes=1, pass_bytes=4, recorded=recorded)["gradients"]
        for recorded in (False, True)
    )
    assert taking_turns == 4 * max(numbers)
    assert recorded == 4 * times * sum(numbers)


@pytest.mark.parametrize(
    ("wanted", "device", "records"),
    [
        ("auto", "cuda", True),
        ("on", "cuda", True),
        ("off", "cuda", False),
        ("auto", "cpu", False),
        ("off", "cpu", False),
    ],
)
def test_passes_are_recorded_on_a_gpu_unless_it_is_off(wanted: str, device: str, records: bool) -> None:
    assert records_passes(wanted, torch.device(device)) is records


def test_half_the_precision_and_half_the_batch_take_half_the_room(digits: Dataset) -> None:
    settings, whole = small_settings("r3gan"), needs(digits, "r3gan").memory
    half = PyTorchGAN.needs(digits, "r3gan", settings, schedule(), Machine(device="cpu", precision="bfloat16"), 1)
    shared = PyTorchGAN.needs(digits, "r3gan", settings, schedule(), CPU, 2)
    assert half.precision == "bfloat16"
    for found in (half.memory, shared.memory):
        assert found["activations"] * 2 == whole["activations"]
        assert found["weights"] == whole["weights"]
    with pytest.raises(ParameterError, match="batch_size: 16 cannot be shared evenly by 3 processes"):
        PyTorchGAN.needs(digits, "r3gan", settings, schedule(), CPU, 3)


def test_images_that_stay_where_they_are_count_by_the_batch(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert needs(digits, "r3gan").memory["images"] == digits.train.images.nbytes
    assert needs(digits, "r3gan", "tensorflow").memory["images"] == 16 * 64
    monkeypatch.setattr(pytorch_data, "_ON_CPU", 1)
    assert needs(digits, "r3gan").memory["images"] == 2 * 16 * 64


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_not_here_is_refused_as_in_training(
    digits: Dataset, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match="device: cuda is asked for"):
        needs(digits, "article", framework, Machine(device="cuda"))
