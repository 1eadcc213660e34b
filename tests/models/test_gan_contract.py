"""What every (family, framework, preset) must do. A framework is one line in FRAMEWORKS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_gans import SCHEDULE, SMALL_PRESETS, fit_small, random_dataset, schedule, small_settings

from troika.datasets.contract import Dataset
from troika.errors import ParameterError
from troika.models.contract import Machine, Progress
from troika.models.export import build_onnx, parity
from troika.models.gan.backend import Backend
from troika.models.gan.batches import Order, latents_of_step
from troika.models.gan.figures import FIGURES
from troika.models.gan.layers import draw_weights
from troika.models.gan.model import GAN
from troika.models.gan.networks import plan_generator
from troika.models.gan.schedules import Hyper
from troika.models.latents import draw_latents
from troika.models.registry import model_class

FRAMEWORKS = ("pytorch", "tensorflow")
PRESETS = tuple(SMALL_PRESETS)
HYPER = Hyper(learning_rate=0.001, beta1=0.5, beta2=0.9, penalty_weight=0.0, average_decay=0.7)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fitted(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(framework, preset) -> a model, trained for a few steps and once only."""
    made: dict[tuple[str, str], GAN] = {}

    def fit(framework: str, preset: str) -> GAN:
        if (framework, preset) not in made:
            made[framework, preset] = fit_small(
                digits, preset, tmp_path_factory.mktemp("state"), framework=framework
            )
        return made[framework, preset]

    return fit


def sample(model: GAN, count: int = 20) -> np.ndarray:
    labels = np.arange(count) % model.spec.num_classes if model.spec.conditional else None
    return model.sample(draw_latents(range(count), model.spec.latent_size), labels)


@contextmanager
def opened(digits: Dataset, framework: str, preset: str, **changes: Any) -> Iterator[Backend]:
    kind = model_class("gan", framework)
    assert issubclass(kind, GAN)
    settings = small_settings(preset, **changes)
    spec = kind.describe(digits, preset, settings)
    with kind.open_backend(digits, spec, settings, SCHEDULE, Machine(device="cpu")) as backend:
        yield backend


def take_step(backend: Backend, size: int, number: int = 0, **changes: Any) -> dict[str, float]:
    """A step on always the same batch; what it has noted down."""
    indices, latents = Order(1000, 16, 0)(0), latents_of_step(0, 0, 16, size)
    backend.step(number, indices, latents, Hyper(**(vars(HYPER) | changes)))
    return dict(zip(FIGURES, backend.figures()[number].tolist(), strict=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_images_have_the_shape_and_range_of_the_contract(fitted: Any, framework: str, preset: str) -> None:
    images = sample(fitted(framework, preset))
    assert images.shape == (20, 8, 8, 1)
    assert images.dtype == np.uint8
    assert images.max() - images.min() > 20  # not all of one grey
    assert sample(fitted(framework, preset), 0).shape == (0, 8, 8, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_model_and_another_one_does_not(
    digits: Dataset, fitted: Any, framework: str, preset: str, tmp_path: Path
) -> None:
    weights = fitted(framework, preset).weights
    again = fit_small(digits, preset, tmp_path / "a", framework=framework).weights
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    other = fit_small(digits, preset, tmp_path / "b", schedule(seed=4), framework=framework).weights
    assert not all(np.array_equal(weights[name], other[name]) for name in weights)


@pytest.mark.parametrize("preset", PRESETS)
def test_first_weights_and_names_are_those_of_the_plan(
    digits: Dataset, fitted: Any, framework: str, preset: str
) -> None:
    model = fitted(framework, preset)
    planned = draw_weights(plan_generator(model.settings, model.spec), 0)
    assert {name: value.shape for name, value in model.weights.items()} == {
        name: value.shape for name, value in planned.items()
    }
    assert all(value.dtype == np.float32 for value in model.weights.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_survives_saving_and_loading(fitted: Any, framework: str, preset: str, tmp_path: Path) -> None:
    model = fitted(framework, preset)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert loaded.spec == model.spec
    assert np.array_equal(sample(loaded), sample(model))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_exported_graph_gives_the_images_in_memory(
    fitted: Any, framework: str, preset: str, tmp_path: Path
) -> None:
    model = fitted(framework, preset)
    model.export_core(tmp_path / "core.onnx")
    build_onnx(tmp_path / "core.onnx", model.spec, tmp_path / "model.onnx")
    found = parity(model, tmp_path / "model.onnx", samples=64, seed=0)
    assert set(found["rungs"]) == {"batch_n", "batch_1", "permuted", "batch_1_to_n"}


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("r3gan", {}), ("dcgan", {"learning_rate_start": 0.004, "learning_rate_end": 0.004})],
    ids=["r3gan", "dcgan"],
)
def test_labels_are_respected(
    digits: Dataset, framework: str, tmp_path: Path, preset: str, changes: dict[str, float]
) -> None:
    """After a short training most images are nearest to the mean digit of their label; by chance a tenth are."""
    short = schedule(steps=250, batch_size=64)
    model = fit_small(digits, preset, tmp_path, short, framework=framework, **changes)
    labels = np.arange(200) % 10
    images = model.sample(draw_latents(range(200), model.spec.latent_size), labels).reshape(200, -1)
    real = digits.train.images.reshape(len(digits.train), -1).astype(float)
    means = np.stack([real[digits.train.labels == label].mean(0) for label in range(10)])
    nearest = ((images[:, None] - means[None]) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() > 0.6


@pytest.mark.parametrize("preset", ["r3gan", "dcgan"])
def test_another_label_gives_another_image(fitted: Any, framework: str, preset: str) -> None:
    model = fitted(framework, preset)
    latents = draw_latents([7] * 10, model.spec.latent_size)
    assert len(np.unique(model.sample(latents, np.arange(10)), axis=0)) == 10


@pytest.mark.parametrize(
    ("preset", "labels"), [("r3gan", None), ("r3gan", [10]), ("r3gan", [0, 1]), ("article", [0])]
)
def test_labels_that_do_not_fit_are_refused(
    fitted: Any, framework: str, preset: str, labels: list[int] | None
) -> None:
    model = fitted(framework, preset)
    latents = draw_latents([0], model.spec.latent_size)
    with pytest.raises(ParameterError, match=r"^label: "):
        model.sample(latents, None if labels is None else np.array(labels))


@pytest.mark.parametrize("preset", PRESETS)
def test_one_step_lowers_both_losses_on_its_batch(digits: Dataset, framework: str, preset: str) -> None:
    size = SMALL_PRESETS[preset]["latent_size"]
    with opened(digits, framework, preset) as backend:
        before = backend.state()
        first = take_step(backend, size)
        after = backend.state()
        # The generator as it was, the discriminator one step on.
        backend.restore({k: (after if k.startswith("discriminator.") else before)[k] for k in before}, 0)
        assert take_step(backend, size, learning_rate=0.0)["discriminator_loss"] < first["discriminator_loss"]
        # Both one step on; the first step's generator loss was that of the old one under this discriminator.
        backend.restore(after, 1)
        assert take_step(backend, size, learning_rate=0.0)["generator_loss"] < first["generator_loss"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_moving_average_follows_its_formula(digits: Dataset, framework: str, preset: str) -> None:
    with opened(digits, framework, preset) as backend:
        before = backend.state()
        take_step(backend, SMALL_PRESETS[preset]["latent_size"], average_decay=0.7)
        after = backend.state()
        moved = 0
        for name, value in after.items():
            if name.startswith("average."):
                generator = after["generator." + name.removeprefix("average.")]
                expected = generator if "running_" in name else 0.7 * before[name] + 0.3 * generator
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
                moved += not np.array_equal(value, before[name])
        assert moved > 2
        assert {name: value.shape for name, value in backend.average().items()} == {
            name.removeprefix("average."): value.shape
            for name, value in after.items()
            if name.startswith("average.")
        }


LINEAR = {"network": {"discriminator_widths": []}, "penalty_gamma_start": 1.0, "updates": "alternating"}
"""A discriminator w x + b: its gradient is w at every image."""


@pytest.mark.parametrize(
    ("penalty", "noted"),
    [
        ("r1", {"penalty_r1"}),
        ("r2", {"penalty_r2"}),
        ("r1_r2", {"penalty_r1", "penalty_r2"}),
        ("wgan_gp", {"penalty_wgan_gp"}),
    ],
)
def test_a_penalty_has_its_closed_form(digits: Dataset, framework: str, penalty: str, noted: set[str]) -> None:
    with opened(digits, framework, "article", penalty=penalty, **LINEAR) as backend:
        before = backend.state()
        weight = before["discriminator.body.1.weight"].astype(np.float64)
        length = (weight**2).sum() ** 0.5
        figures = take_step(backend, 10, penalty_weight=0.5)
        for name in ("penalty_r1", "penalty_r2", "penalty_wgan_gp"):
            closed = (length - 1) ** 2 if name == "penalty_wgan_gp" else length**2 / 2
            assert figures[name] == pytest.approx(closed if name in noted else -1, rel=1e-4)
        # It is part of what the discriminator minimises: Adam's first moment is 1 - beta1 times the gradient.
        with_penalty = backend.state()["discriminator_adam.first.body.1.weight"] / (1 - HYPER.beta1)
        backend.restore(before, 0)
        take_step(backend, 10, penalty_weight=0.0)
        without = backend.state()["discriminator_adam.first.body.1.weight"] / (1 - HYPER.beta1)
        slope = 2 * (length - 1) * weight / length if penalty == "wgan_gp" else len(noted) * weight
        np.testing.assert_allclose(with_penalty - without, 0.5 * slope, rtol=2e-3, atol=1e-5)


def test_l2_adds_its_share_of_a_weight_to_its_gradient(digits: Dataset, framework: str) -> None:
    slopes = []
    for l2 in (0.0, 0.25):
        with opened(digits, framework, "r3gan", l2=l2) as backend:
            weight = backend.state()["discriminator.body.0.weight"]
            take_step(backend, 7)
            slopes.append(backend.state()["discriminator_adam.first.body.0.weight"] / (1 - HYPER.beta1))
    np.testing.assert_allclose(slopes[1] - slopes[0], 0.25 * weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (28, 28, 1), (32, 32, 3), (64, 64, 3)], ids=str)
def test_every_usual_shape_can_be_made(
    tmp_path: Path, framework: str, preset: str, shape: tuple[int, int, int]
) -> None:
    dataset = random_dataset(tmp_path / "dataset", shape)
    # A new network costs TensorFlow seconds: colour with labels, grey without.
    for conditional in (True, False) if framework == "pytorch" else (shape[2] == 3,):
        model = fit_small(
            dataset,
            preset,
            tmp_path / "state",
            schedule(steps=1, batch_size=2),
            framework=framework,
            conditional=conditional,
        )
        assert sample(model, 3).shape == (3, *shape)


def test_reports_tell_all_figures_and_ticks_bring_samples(digits: Dataset, framework: str, tmp_path: Path) -> None:
    reports: list[Progress] = []
    fit_small(digits, "r3gan", tmp_path, schedule(steps=120, ticks=2), framework=framework, report=reports.append)
    assert [report.step for report in reports] == [50, 100, 120]
    assert [report.samples is not None for report in reports] == [False, True, True]
    assert reports[-1].samples is not None
    assert reports[-1].samples.shape == (60, 8, 8, 1)
    assert set(reports[0].figures) == {
        "generator_loss", "discriminator_loss", "score_real", "score_fake", "penalty_r1", "penalty_r2",
        "generator_gradient_norm", "discriminator_gradient_norm", "learning_rate", "beta2", "penalty_gamma",
        "average_decay",
    }  # fmt: skip
    assert {"variety", "validation_distance"} <= set(reports[1].figures)
    assert all(np.isfinite(list(report.figures.values())).all() for report in reports)


def test_residual_blocks_train_and_export(digits: Dataset, framework: str, tmp_path: Path) -> None:
    """They begin as the identity, so that only a training shows them."""
    changes = {"network": {"residual_blocks": 1, "channels": 16}}
    model = fit_small(digits, "r3gan", tmp_path, schedule(steps=3), framework=framework, **changes)
    inside = {name: value for name, value in model.weights.items() if ".body.4.weight" in name}
    assert len(inside) == 2  # one block at 4x4 and one at 8x8
    assert all(np.abs(value).max() > 0 for value in inside.values())
    planned = draw_weights(plan_generator(model.settings, model.spec), 0)
    assert all(not planned[name].any() for name in inside)
    assert sample(model).shape == (20, 8, 8, 1)
    model.export_core(tmp_path / "core.onnx")
    build_onnx(tmp_path / "core.onnx", model.spec, tmp_path / "model.onnx")
    assert parity(model, tmp_path / "model.onnx", samples=8, seed=0)["samples"] == 8
