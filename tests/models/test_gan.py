"""GANs in PyTorch: what is refused, devices, and the parts of a step that only this framework has."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_gans import SMALL_PRESETS, fit_small, random_dataset, schedule, small_settings

from troika.datasets.contract import Dataset, Split
from troika.errors import CheckpointError, ParameterError
from troika.models.contract import Machine
from troika.models.gan import pytorch_data
from troika.models.gan.pytorch_data import Feed
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.gan.pytorch_inputs import Field, Inputs, lay_out
from troika.models.gan.pytorch_optimizer import Adam
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings
from troika.models.registry import model_class, settings_class


def test_registry_finds_the_model() -> None:
    assert model_class("gan", "pytorch") is PyTorchGAN
    assert settings_class("gan") is GANSettings is PyTorchGAN.settings_type


@pytest.mark.parametrize("shape", [(8, 16, 1), (4, 4, 1), (20, 20, 3), (7, 7, 1)], ids=str)
def test_another_shape_is_refused_with_those_that_work(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    dataset = random_dataset(tmp_path / "dataset", shape)
    with pytest.raises(ParameterError, match=r"^shape: .* 8, 14, 16, 28, 32"):
        fit_small(dataset, "r3gan", tmp_path / "state")


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch_size": 1}, {"ticks": 0}])
def test_a_schedule_out_of_range_is_refused(digits: Dataset, tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=next(iter(changes))):
        fit_small(digits, "r3gan", tmp_path, schedule(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta1": 1.0}, "beta1"),
        ({"loss": "mean"}, "loss"),
        ({"penalty": "r3"}, "penalty"),
        ({"penalty": "none"}, "penalty_gamma_start and penalty_gamma_end: must be 0"),
        ({"network": {"kind": "dcgan", "channels": 4, "max_channels": 8}}, "network"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        small_settings("r3gan", **changes)


def test_a_penalty_on_a_network_that_normalises_batches_is_refused() -> None:
    with pytest.raises(ParameterError, match="penalty: must be none with network kind dcgan"):
        small_settings("dcgan", penalty="r1")


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


def test_a_device_that_is_not_here_is_refused_by_name(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match=r"^device: cuda is asked for, but PyTorch finds no GPU"):
        PyTorchGAN.fit(
            digits, "r3gan", small_settings("r3gan"), schedule(), Machine(device="cuda"), tmp_path, lambda _: None
        )


def test_compiling_is_refused_not_ignored(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"^compile: on is for tensorflow, or for pytorch on a GPU"):
        PyTorchGAN.fit(
            digits,
            "r3gan",
            small_settings("r3gan"),
            schedule(),
            Machine("cpu", compile="on"),
            tmp_path,
            lambda _: None,
        )


@pytest.mark.parametrize("preset", SMALL_PRESETS)
def test_bfloat16_passes_train_float32_weights(digits: Dataset, tmp_path: Path, preset: str) -> None:
    made = [
        PyTorchGAN.fit(
            digits,
            preset,
            small_settings(preset),
            schedule(),
            Machine("cpu", precision),
            tmp_path,
            lambda _: None,
        ).weights
        for precision in ("float32", "bfloat16")
    ]
    for name, value in made[0].items():
        assert made[1][name].dtype == np.float32
        np.testing.assert_allclose(made[1][name], value, atol=0.05)
    assert not all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


def test_a_large_split_is_read_batch_by_batch_to_the_same_end(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = fit_small(digits, "r3gan", tmp_path / "a").weights
    monkeypatch.setattr(pytorch_data, "_ON_CPU", 1000)
    assert not Feed(digits.train, torch.device("cpu"), torch.contiguous_format).resident
    streamed = fit_small(digits, "r3gan", tmp_path / "b").weights
    assert all(np.array_equal(resident[name], streamed[name]) for name in resident)


def test_a_batch_that_was_not_announced_is_the_right_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    monkeypatch.setattr(pytorch_data, "_ON_CPU", 1)
    feed = Feed(Split(images, np.arange(12)), torch.device("cpu"), torch.contiguous_format)
    feed.announce(np.array([1, 2]))
    assert feed.arrays(np.array([3, 4]))["labels"].tolist() == [3, 4]
    feed.announce(np.array([5, 6]))
    assert feed.arrays(np.array([5, 6]))["labels"].tolist() == [5, 6]
    feed.close()


def test_a_batch_holds_scaled_images(digits: Dataset) -> None:
    feed = Feed(digits.train, torch.device("cpu"), torch.contiguous_format)
    inputs = Inputs(torch.device("cpu"), feed.fields(1000))
    inputs.put(**feed.arrays(np.arange(1000)))
    images, labels = feed.batch(inputs)
    assert images.shape == (1000, 1, 8, 8)
    assert (images.min(), images.max()) == (-1, 1)
    assert labels.dtype == torch.int64
    assert torch.equal(images[7, 0], torch.from_numpy(digits.train.images[7, :, :, 0] / np.float32(127.5) - 1))


def test_training_leaves_the_callers_random_state_and_threads_alone(digits: Dataset, tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit_small(digits, "r3gan", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_adam_is_that_of_pytorch_however_its_weights_lie(layout: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 4, 2, 1), torch.nn.LeakyReLU(), torch.nn.ConvTranspose2d(5, 3, 4, 2, 1)
    ).to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(6, 2, 8, 8, generator=random).contiguous(memory_format=layout)
    other = copy.deepcopy(network)
    ours, theirs = Adam(network, 0.01), torch.optim.Adam(other.parameters(), weight_decay=0.01)
    for number in range(4):
        hyper = Hyper(0.01 / (number + 1), 0.5, 0.9 + number / 100, 0.0, 0.0)
        ours.apply(ours.gradients(network(images).square().mean()), hyper)
        theirs.param_groups[0] |= {"lr": hyper.learning_rate, "betas": (hyper.beta1, hyper.beta2)}
        theirs.zero_grad()
        other(images).square().mean().backward()
        theirs.step()
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        # The generator's own way through the discriminator: there, and back to the images.
        ({"updates": "alternating"}, 6),
        # With real images beside it, which need no way back.
        ({"updates": "alternating", "loss": "relativistic"}, 9),
        # From the first layer to the images alone.
        ({"updates": "simultaneous"}, 1),
    ],
    ids=str,
)
def test_a_step_needs_no_gradient_that_is_not_used(digits: Dataset, changes: dict[str, Any], again: int) -> None:
    """In the generator's step the discriminator is frozen, and in its own the generator."""
    settings = small_settings("article", **changes)
    spec = PyTorchGAN.describe(digits, "article", settings)
    with (
        PyTorchGAN.open_backend(digits, spec, settings, schedule(), Machine(device="cpu")) as backend,
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen,
    ):
        backend.step(0, np.arange(16), np.zeros((16, 10), np.float32), Hyper(0.001, 0.5, 0.9, 0.0, 0.0))
    products = sum(event.count for event in seen.key_averages() if event.key in ("aten::mm", "aten::addmm"))
    # Layers times passes: forward; gradients of weights and, but for the first layer, of inputs.
    generator, discriminator = 3, 3
    forward, backward = generator + discriminator, (2 * generator - 1) + (2 * discriminator - 1)
    assert products == forward + backward + again


def test_arrays_of_a_message_do_not_overlap_and_begin_where_any_type_may() -> None:
    fields: dict[str, Field] = {
        "a": ((3,), np.uint8), "b": ((), np.float64), "none": ((0,), np.float32), "c": ((5, 7), np.float32)
    }  # fmt: skip
    places, size = lay_out(fields)
    assert [place.stop - place.start for place in places.values()] == [3, 8, 0, 140]
    assert all(place.start % 16 == 0 for place in places.values())
    ends = [0, *(place.stop for place in places.values())]
    assert all(place.start >= end for place, end in zip(places.values(), ends[:-1], strict=True))
    assert size >= ends[-1]


def test_adam_takes_a_gradient_that_lies_otherwise_than_its_weight() -> None:
    network = torch.nn.Conv2d(2, 3, 4, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before, slope = network.weight.detach().clone(), torch.randn(3, 2, 4, 4).sign() + torch.rand(3, 2, 4, 4) / 2
    adam = Adam(network, 0.0)
    adam.apply(adam.gradients((network.weight * slope).sum()), Hyper(0.1, 0.0, 0.0, 0.0, 0.0))
    torch.testing.assert_close(network.weight.detach(), before - 0.1 * slope.sign())
