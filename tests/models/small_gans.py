"""Presets small enough to train in a test."""

from pathlib import Path
from typing import Any

import numpy as np
from quick import REPOSITORY

from troika.datasets.contract import Dataset, Split
from troika.datasets.writing import write_dataset
from troika.models.contract import Machine, Schedule
from troika.models.gan.model import GAN
from troika.models.gan.settings import GANSettings
from troika.models.registry import model_class
from troika.params import merge, read_params

_SMALL: dict[str, dict[str, Any]] = {
    "r3gan": {
        "network": {"channels": 4, "max_channels": 16, "hidden_size": 16},
        "latent_size": 7,
        "ema_half_life_images": 500,
    },
    "dcgan": {"network": {"channels": 4, "max_channels": 16}, "latent_size": 7},
    "article": {"network": {"generator_widths": [16, 32], "discriminator_widths": [32, 16]}, "latent_size": 10},
}
SMALL_PRESETS = {
    name: merge(preset, _SMALL[name])
    for name, preset in read_params(REPOSITORY / "params.yaml")["train"]["presets"].items()
}
"""The presets of params.yaml with narrow layers."""

SCHEDULE = Schedule(steps=8, batch_size=16, seed=3, checkpoint_seconds=1e9, ticks=1)


def schedule(**changes: Any) -> Schedule:
    return Schedule(**(vars(SCHEDULE) | changes))


def small_settings(preset: str, **changes: Any) -> GANSettings:
    return GANSettings.parse(merge(SMALL_PRESETS[preset], changes), "test")


def fit_small(
    dataset: Dataset,
    preset: str,
    state: Path,
    schedule: Schedule = SCHEDULE,
    framework: str = "pytorch",
    report: Any = lambda progress: None,
    **changes: Any,
) -> GAN:
    kind = model_class("gan", framework)
    assert issubclass(kind, GAN)
    settings = small_settings(preset, **changes)
    return kind.fit(dataset, preset, settings, schedule, Machine(), state, report)


def same_weights(one: GAN, other: GAN) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


def random_dataset(folder: Path, shape: tuple[int, int, int]) -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, *shape), dtype=np.uint8)
    split = Split(images, np.arange(12) % 3)
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return write_dataset(folder, name="random", source="test", classes=("a", "b", "c"), splits=splits)
