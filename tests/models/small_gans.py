"""Presets small enough to train in a test."""

from pathlib import Path
from typing import Any

import numpy as np

from troika.datasets.contract import Dataset, Split, write_dataset
from troika.models.contract import Schedule
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.gan.settings import GANSettings

SMALL_PRESETS: dict[str, dict[str, Any]] = {
    "r3gan": {
        "network": {"kind": "convolutional", "channels": 4, "max_channels": 16, "hidden_size": 16},
        "conditional": True,
        "latent_size": 7,
        "label_scale": 3.0,
        "loss": "relativistic",
        "penalty_gamma_start": 1.0,
        "penalty_gamma_end": 0.1,
        "penalty_every": 4,
        "learning_rate_start": 0.004,
        "learning_rate_end": 0.0004,
        "beta1": 0.0,
        "beta2_start": 0.9,
        "beta2_end": 0.99,
        "ema_half_life_images": 500.0,
        "ema_ramp": 0.05,
    },
    "article": {
        "network": {
            "kind": "mlp",
            "generator_widths": [16, 32],
            "discriminator_widths": [32, 16],
            "dropout": 0.3,
        },
        "conditional": False,
        "latent_size": 10,
        "label_scale": 1.0,
        "loss": "non_saturating",
        "penalty_gamma_start": 0.0,
        "penalty_gamma_end": 0.0,
        "penalty_every": 1,
        "learning_rate_start": 0.0002,
        "learning_rate_end": 0.0002,
        "beta1": 0.5,
        "beta2_start": 0.999,
        "beta2_end": 0.999,
        "ema_half_life_images": 0.0,
        "ema_ramp": 1.0,
    },
}
"""The two presets of params.yaml with narrow layers."""

SCHEDULE = Schedule(steps=8, batch_size=16, seed=3, checkpoint_seconds=1e9)


def small_settings(preset: str, **changes: Any) -> GANSettings:
    return GANSettings.parse(SMALL_PRESETS[preset] | changes, "test")


def fit_small(
    dataset: Dataset, preset: str, state: Path, schedule: Schedule = SCHEDULE, **changes: Any
) -> PyTorchGAN:
    settings = small_settings(preset, **changes)
    return PyTorchGAN.fit(dataset, preset, settings, schedule, state, lambda progress: None)


def random_dataset(folder: Path, shape: tuple[int, int, int]) -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, *shape), dtype=np.uint8)
    split = Split(images, np.arange(12) % 3)
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return write_dataset(folder, name="random", source="test", classes=("a", "b", "c"), splits=splits)
