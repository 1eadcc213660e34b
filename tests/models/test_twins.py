"""The two backends are twins: the same weights, data and numbers give the same passes, losses and steps."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_gans import SCHEDULE, SMALL_PRESETS, fit_small, small_settings

from troika.datasets.contract import Dataset
from troika.errors import ParameterError
from troika.models.contract import Machine, ModelSpec
from troika.models.gan import pytorch_losses
from troika.models.gan.backend import Backend
from troika.models.gan.batches import Order, latents_of_step
from troika.models.gan.figures import FIGURES
from troika.models.gan.folding import fold_batch_norms
from troika.models.gan.layers import BatchNorm, Layers, Weights, draw_weights
from troika.models.gan.model import GAN
from troika.models.gan.networks import plan_discriminator, plan_generator
from troika.models.gan.pytorch_networks import build, named_tensors, put_weights
from troika.models.gan.schedules import Hyper
from troika.models.latents import draw_latents
from troika.models.registry import model_class


def tensorflow() -> Any:
    """TensorFlow, started as Troika does; not imported by every process that only collects tests."""
    model_class("gan", "tensorflow")
    runtime = import_module("troika.tensorflow_runtime")
    runtime.start()
    return runtime.tf


def keras_network(layers: Layers, input_shape: tuple[int, ...]) -> Any:
    tensorflow()
    return import_module("troika.models.gan.tensorflow_networks").Network(layers, input_shape)


def twin() -> Any:
    return model_class("gan", "tensorflow")


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "article": ("article", {}),
    "dcgan": ("dcgan", {}),
    "r3gan": ("r3gan", {}),
    "r3gan with residual blocks": ("r3gan", {"network": {"residual_blocks": 1, "channels": 16}}),
}


def plans(case: str) -> dict[str, tuple[Layers, tuple[int, ...]]]:
    """Of both networks: layers, and the shape of one input as PyTorch has it. Images are 28x28 in colour."""
    preset, changes = CASES[case]
    settings = small_settings(preset, **changes)
    spec = ModelSpec(
        family="gan", framework="none", preset=preset, image_shape=(28, 28, 3), latent_size=settings.latent_size,
        num_classes=3, conditional=settings.conditional,
    )  # fmt: skip
    inputs = settings.latent_size + 3 * settings.conditional
    return {
        "generator": (plan_generator(settings, spec), (inputs,)),
        "discriminator": (plan_discriminator(settings, spec), (3, 28, 28)),
    }


def any_weights(layers: Layers) -> Weights:
    """No zeros, as first weights would have: every one of them counts."""
    random = np.random.default_rng(2)
    weights = draw_weights(layers, 1)
    for name, value in weights.items():
        noise = 0.1 * random.standard_normal(value.shape, np.float32)
        weights[name] = value + (abs(noise) if name.endswith("running_var") else noise)
    return weights


def channels_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


@pytest.mark.parametrize("name", ["generator", "discriminator"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_give_the_same_forward_pass(case: str, name: str) -> None:
    layers, shape = plans(case)[name]
    weights = any_weights(layers)
    inputs = np.random.default_rng(0).standard_normal((6, *shape), np.float32)
    for training in (False, True):
        # Dropout is the one thing that may differ: nothing is dropped.
        kept = {"rate": 0.0}
        plan = tuple(type(layer)(**kept) if hasattr(layer, "rate") else layer for layer in layers)
        body = torch.nn.ModuleDict({"body": build(plan)}).train(training)
        put_weights(body, weights)
        with torch.inference_mode():
            expected = body["body"](torch.from_numpy(inputs)).numpy()
        network = keras_network(layers, channels_last(np.zeros((1, *shape))).shape[1:])
        network.set_weights(weights)
        found = network(tensorflow().constant(channels_last(inputs)), training=training).numpy()
        assert expected.std() > 0.05
        np.testing.assert_allclose(found, channels_last(expected), rtol=1e-4, atol=1e-5)
        # Running statistics have moved by the same.
        after = {key: value.numpy() for key, value in named_tensors(body).items()}
        for key, value in network.get_weights().items():
            np.testing.assert_allclose(value, after[key], rtol=1e-5, atol=1e-6)


def test_other_weights_give_another_forward_pass() -> None:
    """Negative control: one transposed kernel is seen."""
    layers, shape = plans("dcgan")["generator"]
    weights = any_weights(layers)
    network = keras_network(layers, shape)
    inputs = tensorflow().constant(np.random.default_rng(0).standard_normal((6, *shape), np.float32))
    network.set_weights(weights)
    before = network(inputs, training=False).numpy()
    name = next(name for name, value in weights.items() if value.ndim == 4)
    network.set_weights(weights | {name: weights[name].transpose(0, 1, 3, 2)})
    assert np.abs(network(inputs, training=False).numpy() - before).max() > 0.01


def test_weights_of_another_network_are_refused() -> None:
    layers, shape = plans("article")["generator"]
    weights = any_weights(layers)
    weights.pop("body.0.weight")
    with pytest.raises(ValueError, match=r"body\.0\.weight"):
        keras_network(layers, shape).set_weights(weights)


@pytest.mark.parametrize("name", sorted(pytorch_losses.LOSSES))
def test_losses_are_the_same(name: Any) -> None:
    real, fake = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    tensorflow_losses = import_module("troika.models.gan.tensorflow_losses")
    assert tensorflow_losses.LOSSES.keys() == pytorch_losses.LOSSES.keys()
    ours, others = tensorflow_losses.LOSSES[name], pytorch_losses.LOSSES[name]
    assert ours.compares_pairs == others.compares_pairs
    for side in ("discriminator", "generator"):
        found = getattr(ours, side)(tensorflow().constant(real), tensorflow().constant(fake)).numpy()
        expected = getattr(others, side)(torch.from_numpy(real), torch.from_numpy(fake)).item()
        assert found == pytest.approx(expected, rel=1e-5)


@contextmanager
def both(digits: Dataset, preset: str, machine: Machine, **changes: Any) -> Iterator[list[Backend]]:
    settings = small_settings(preset, **changes)
    with ExitStack() as stack:
        backends = []
        for framework in ("pytorch", "tensorflow"):
            kind = model_class("gan", framework)
            assert issubclass(kind, GAN)
            spec = kind.describe(digits, preset, settings)
            opened = kind.open_backend(digits, spec, settings, SCHEDULE, machine)
            backends.append(stack.enter_context(opened))
        yield backends


PENALISED = {"updates": "alternating", "penalty_gamma_start": 1.0}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    # Those of the article drop the same three tenths in both.
    "article": ("article", {"l2": 0.01}),
    "dcgan": ("dcgan", {}),
    "r3gan": ("r3gan", {"network": {"dropout": 0.25}}),
    "article, alternating": ("article", {"updates": "alternating"}),
    "article with r1": ("article", PENALISED | {"penalty": "r1"}),
    "article with r2": ("article", PENALISED | {"penalty": "r2"}),
    "r3gan with wgan_gp": ("r3gan", {"network": {"dropout": 0.25}, "penalty": "wgan_gp", "loss": "wasserstein"}),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_the_same(digits: Dataset, case: str) -> None:
    """Losses, scores, penalties, gradients, both Adams, running statistics and the moving average."""
    preset, changes = STEPS[case]
    size = SMALL_PRESETS[preset]["latent_size"]
    weight = 0.7 if small_settings(preset, **changes).penalty != "none" else 0.0
    with both(digits, preset, Machine(device="cpu", compile="off"), **changes) as backends:
        order, rows = Order(1000, 16, 0), []
        for backend in backends:
            backend.restore(backend.state(), 47)  # so that the third step notes gradients
            for number in (47, 48, 49):
                hyper = Hyper(0.002, 0.5, 0.9 + number / 1000, weight * (number != 48), 0.8)
                backend.step(number, order(number), latents_of_step(0, number, 16, size), hyper)
            rows.append(backend.figures()[47:50])
        np.testing.assert_allclose(rows[1], rows[0], rtol=2e-3, atol=2e-4)
        assert rows[0][2, FIGURES.index("generator_gradient_norm")] > 0
        ours, theirs = backends[1].state(), backends[0].state()
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            # Of a loss of differences the last bias has no gradient: Adam makes steps of rounding errors.
            if not (name.endswith("body.7.bias") and case == "r3gan"):
                np.testing.assert_allclose(ours[name], value, rtol=5e-3, atol=5e-4, err_msg=name)


def test_a_state_of_one_goes_on_in_the_other(digits: Dataset) -> None:
    with both(digits, "dcgan", Machine(device="cpu", compile="off")) as (pytorch, tensorflow):
        pytorch.step(0, np.arange(16), latents_of_step(0, 0, 16, 7), Hyper(0.002, 0.5, 0.9, 0.0, 0.8))
        state = pytorch.state()
        tensorflow.restore(state, 1)
        for name, value in tensorflow.state().items():
            assert np.array_equal(value, state[name]), name


def test_weights_of_one_make_the_images_of_the_other(digits: Dataset, tmp_path: Path) -> None:
    trained = fit_small(digits, "article", tmp_path, framework="pytorch")
    same = twin()(trained.spec, trained.settings, trained.weights)
    latents = draw_latents(range(20), 10)
    difference = np.abs(same.sample(latents, None).astype(int) - trained.sample(latents, None))
    assert difference.max() <= 1


def test_xla_makes_the_same_steps(digits: Dataset) -> None:
    """It may add up in another order; nothing more."""
    states = []
    for compile_ in ("off", "on"):
        settings = small_settings("article")
        spec = twin().describe(digits, "article", settings)
        machine = Machine(device="cpu", compile=compile_)  # type: ignore[arg-type]
        with twin().open_backend(digits, spec, settings, SCHEDULE, machine) as backend:
            for number in (0, 1):
                latents = latents_of_step(0, number, 16, 10)
                backend.step(number, np.arange(16), latents, Hyper(0.002, 0.5, 0.9, 0.0, 0.8))
            states.append(backend.state())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    choose_xla = import_module("troika.models.gan.tensorflow_gan").choose_xla
    assert [choose_xla("auto", steps) for steps in (100, 10_000)] == [False, True]


@pytest.mark.parametrize("preset", SMALL_PRESETS)
def test_bfloat16_passes_keep_float32_weights_and_nearly_the_same_figures(digits: Dataset, preset: str) -> None:
    """What a GPU does by default, on a CPU."""
    rows = []
    for precision in ("float32", "bfloat16"):
        settings = small_settings(preset)
        weight = 0.5 if settings.penalty != "none" else 0.0
        latents = latents_of_step(0, 0, 16, settings.latent_size)
        spec = twin().describe(digits, preset, settings)
        machine = Machine(device="cpu", precision=precision, compile="off")  # type: ignore[arg-type]
        with twin().open_backend(digits, spec, settings, SCHEDULE, machine) as backend:
            backend.step(0, np.arange(16), latents, Hyper(0.002, 0.5, 0.9, weight, 0.8))
            rows.append(backend.figures()[0])
            assert all(value.dtype == np.float32 for value in backend.state().values())
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_allclose(rows[1], rows[0], rtol=0.05, atol=0.02)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    layers, _ = plans("article")["discriminator"]
    network = keras_network(layers, (28, 28, 3))
    assert [rate for rate, _ in network.dropouts] == [0.3, 0.3]
    bits = np.random.default_rng(0).integers(0, 65536, (2000, 32 + 16), dtype=np.uint16)
    masks = [mask.numpy() for mask in network.dropout_masks(tensorflow().constant(bits))]
    assert [mask.shape for mask in masks] == [(2000, 32), (2000, 16)]
    for mask in masks:
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
        assert (mask == 0).mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("case", ["article", "dcgan"])
def test_batch_normalisation_folds_away(case: str) -> None:
    layers, shape = plans(case)["generator"]
    weights = any_weights(layers)
    folded, kept = fold_batch_norms(layers, weights)
    assert not any(isinstance(layer, BatchNorm) for layer in folded)
    inputs = tensorflow().constant(np.random.default_rng(0).standard_normal((5, *shape), np.float32))
    images = []
    for plan, values in ((layers, weights), (folded, kept)):
        network = keras_network(plan, shape)
        network.set_weights(values)
        images.append(network(inputs, training=False).numpy())
    np.testing.assert_allclose(images[1], images[0], atol=1e-5)


ONE_FRAMEWORK = """
import sys; sys.path[:0] = sys.argv[1:3]
from small_gans import *
model = fit_small(Dataset.open(Path(sys.argv[3])), "article", Path(sys.argv[4]), schedule(steps=2), {framework!r})
model.export_core(Path(sys.argv[4]) / "core.onnx")
assert {other!r} not in sys.modules, sorted(sys.modules)
"""


@pytest.mark.parametrize(("framework", "other"), [("pytorch", "tensorflow"), ("tensorflow", "torch")])
def test_one_framework_needs_nothing_of_the_other(
    digits: Dataset, tmp_path: Path, framework: str, other: str
) -> None:
    here = Path(__file__).parent
    code = ONE_FRAMEWORK.format(framework=framework, other=other)
    command = [sys.executable, "-c", code, str(here), str(here.parent), str(digits.folder), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "core.onnx").exists()


def test_a_framework_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "troika.models.gan.tensorflow_gan")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not there
    with pytest.raises(ParameterError, match=r"framework: tensorflow is not installed .* FRAMEWORK=tensorflow"):
        model_class("gan", "tensorflow")


def test_what_the_twin_cannot_do_is_refused_by_name(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings("article")
    spec = twin().describe(digits, "article", settings)
    with (
        pytest.raises(ParameterError, match="device: cuda is asked for, but TensorFlow finds no GPU"),
        twin().open_backend(digits, spec, settings, SCHEDULE, Machine(device="cuda")),
    ):
        pass
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ParameterError, match="KERAS_BACKEND: jax; framework tensorflow needs it unset"):
        fit_small(digits, "article", tmp_path, framework="tensorflow")
