"""Which discriminator the generator learns from; both gradients of one pass against those of two passes back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from small_gans import SCHEDULE, small_settings
from torch import Tensor

from troika.datasets.contract import Dataset
from troika.errors import ParameterError
from troika.models.contract import Machine
from troika.models.gan.backend import Backend
from troika.models.gan.batches import Order, dropout_bits, latents_of_step
from troika.models.gan.figures import FIGURES
from troika.models.gan.model import GAN
from troika.models.gan.networks import plan_discriminator, plan_generator
from troika.models.gan.pytorch_losses import LOSSES
from troika.models.gan.pytorch_networks import Discriminator, Generator, put_weights
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings
from troika.models.registry import model_class

HYPER = Hyper(learning_rate=0.01, beta1=0.5, beta2=0.9, penalty_weight=0.0, average_decay=0.5)
NO_PENALTY = {"penalty": "none", "penalty_gamma_start": 0.0, "penalty_gamma_end": 0.0}
SIMULTANEOUS: dict[str, tuple[str, dict[str, Any]]] = {
    "article": ("article", {}),
    "article, relativistic": ("article", {"loss": "relativistic"}),
    "r3gan": ("r3gan", NO_PENALTY | {"updates": "simultaneous", "network": {"dropout": 0.2}}),
}


@pytest.fixture(params=["pytorch", "tensorflow"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def opened(digits: Dataset, framework: str, preset: str, settings: GANSettings) -> Iterator[Backend]:
    kind = model_class("gan", framework)
    assert issubclass(kind, GAN)
    spec = kind.describe(digits, preset, settings)
    with kind.open_backend(digits, spec, settings, SCHEDULE, Machine("cpu", compile="off")) as backend:
        yield backend


def batch(settings: GANSettings) -> tuple[Any, Any]:
    return Order(1000, 16, 0)(0), latents_of_step(0, 0, 16, settings.latent_size)


def step(backend: Backend, settings: GANSettings) -> tuple[dict[str, float], Tensors]:
    """What one step notes down, and the gradients: Adam's first moments are half of them."""
    backend.step(0, *batch(settings), HYPER)
    figures = dict(zip(FIGURES, backend.figures()[0].tolist(), strict=True))
    return figures, {name: 2 * value for name, value in backend.state().items() if "_adam.first." in name}


def two_ways_back(digits: Dataset, settings: GANSettings, preset: str, state: Tensors) -> tuple[float, Tensors]:
    """The generator's loss, and both networks' gradients as the definition has them."""
    kind = model_class("gan", "pytorch")
    assert issubclass(kind, GAN)
    spec = kind.describe(digits, preset, settings)
    generator = Generator(plan_generator(settings, spec), spec.num_classes, settings.label_scale)
    discriminator = Discriminator(plan_discriminator(settings, spec), spec.image_shape)
    networks = {"generator": generator, "discriminator": discriminator}
    for name, network in networks.items():
        put_weights(network, {key.removeprefix(f"{name}."): value for key, value in state.items()})
    indices, latents = batch(settings)
    real = torch.from_numpy(digits.train.images[indices]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    labels = torch.from_numpy(digits.train.labels[indices]) if settings.conditional else None
    bits = dropout_bits(SCHEDULE.seed, 0, 2, 16, sum(discriminator.dropout_widths))
    real_scores = discriminator(real, labels, bits[0])
    fake_scores = discriminator(generator(torch.from_numpy(latents), labels), labels, bits[1])
    loss = LOSSES[settings.loss]
    of_generator = loss.generator(real_scores, fake_scores)
    losses = {"generator": of_generator, "discriminator": loss.discriminator(real_scores, fake_scores)}
    found: Tensors = {}
    for name, network in networks.items():
        parameters: dict[str, Tensor] = dict(network.named_parameters())
        gradients = torch.autograd.grad(losses[name], list(parameters.values()), retain_graph=True)
        for key, gradient in zip(parameters, gradients, strict=True):
            found[f"{name}_adam.first.{key}"] = gradient.numpy()
    return float(of_generator.detach()), found


@pytest.mark.parametrize("case", SIMULTANEOUS)
def test_both_gradients_are_those_of_two_passes_back(digits: Dataset, framework: str, case: str) -> None:
    preset, changes = SIMULTANEOUS[case]
    settings = small_settings(preset, **changes)
    assert settings.updates == "simultaneous"
    with opened(digits, framework, preset, settings) as backend:
        loss, expected = two_ways_back(digits, settings, preset, backend.state())
        figures, found = step(backend, settings)
    assert figures["generator_loss"] == pytest.approx(loss, rel=1e-4)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_alternating_ones_are_others(digits: Dataset, framework: str) -> None:
    settings = small_settings("article", updates="alternating")
    with opened(digits, framework, "article", settings) as backend:
        _, expected = two_ways_back(digits, settings, "article", backend.state())
        _, found = step(backend, settings)
    generator = "generator_adam.first.body.0.weight"
    assert not np.allclose(found[generator], expected[generator], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_alternating_the_generator_learns_from_the_discriminator_as_it_is_now(
    digits: Dataset, precision: Any
) -> None:
    """Also in half precision, where PyTorch keeps rounded weights as long as one block of it lasts."""
    settings = small_settings("article", updates="alternating", network={"dropout": 0.0})
    kind = model_class("gan", "pytorch")
    assert issubclass(kind, GAN)
    spec = kind.describe(digits, "article", settings)
    with kind.open_backend(digits, spec, settings, SCHEDULE, Machine("cpu", precision)) as backend:
        before = backend.state()
        figures, _ = step(backend, settings)
        after = backend.state()
    new = {name: value for name, value in after.items() if name.startswith("discriminator.")}
    as_it_was, _ = two_ways_back(digits, settings, "article", before)
    as_it_is, _ = two_ways_back(digits, settings, "article", before | new)
    assert abs(as_it_was - as_it_is) > 0.1
    assert figures["generator_loss"] == pytest.approx(as_it_is, abs=0.02)


@pytest.mark.parametrize("score", [-60.0, -300.0])
def test_images_that_are_surely_found_out_do_no_harm(digits: Dataset, framework: str, score: float) -> None:
    """Their slope is next to nothing and the quotient immense: right, or beyond float32 none at all."""
    settings = small_settings("article")
    with opened(digits, framework, "article", settings) as backend:
        state = backend.state()
        last = max(name for name in state if name.startswith("discriminator.body.") and name.endswith("bias"))
        backend.restore(state | {last: np.full(1, score, np.float32)}, 0)
        _, expected = two_ways_back(digits, settings, "article", backend.state())
        _, found = step(backend, settings)
    for name in (key for key in expected if key.startswith("generator")):
        assert np.abs(expected[name]).max() > 0
        wanted = expected[name] if score > -100 else np.zeros_like(expected[name])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("dcgan", {}, "with network kind dcgan"),
        ("r3gan", {}, "where there is a penalty"),
        ("article", {"loss": "hinge"}, "with loss hinge"),
        ("article", {"loss": "least_squares"}, "with loss least_squares"),
        ("article", {"loss": "wasserstein"}, "with loss wasserstein, which needs a penalty"),
    ],
)
def test_what_has_no_one_pass_is_refused(preset: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=f"updates: must be alternating {words}"):
        small_settings(preset, **(changes | {"updates": "simultaneous"}))
