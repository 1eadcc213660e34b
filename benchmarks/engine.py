"""For benchmarks: Troika's own training, step by step, and images to train on. Measures nothing."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.step import read_sections
from troika.datasets.contract import Dataset, Images, Split, SplitName
from troika.datasets.writing import write_dataset
from troika.models.contract import Machine, ModelSpec, Schedule
from troika.models.gan.backend import Backend
from troika.models.gan.batches import Order, latents_of_step
from troika.models.gan.figures import REPORT_EVERY
from troika.models.gan.model import GAN
from troika.models.gan.schedules import hyper_at
from troika.models.gan.settings import GANSettings
from troika.models.registry import model_class


def noise(count: int, side: int) -> Images:
    """Random images, uint8 (count, side, side, 1): no network is faster or slower with others."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def dataset_of(images: Images, classes: int, folder: Path) -> Dataset:
    """Write images as a dataset, labelled 0, 1, 2 ... in turn; some are its held-out ones, too."""
    split = Split(images, np.arange(len(images)) % classes)
    few = Split(images[: 100 * classes], split.labels[: 100 * classes])
    names = tuple(map(str, range(classes)))
    splits: dict[SplitName, Split] = {"train": split, "validation": few, "test": few}
    return write_dataset(folder, name="noise", source="benchmark", classes=names, splits=splits)


def settings_of(preset: str) -> GANSettings:
    """A preset of params.yaml."""
    return GANSettings.parse(read_sections(Path("params.yaml"))["train"]["presets"][preset], preset)


class Training:
    """A preset in training: the product's steps, one after another, without the rest of its loop."""

    def __init__(self, backend: Backend, spec: ModelSpec, settings: GANSettings, schedule: Schedule, order: Order):
        self.backend, self.spec = backend, spec
        self.done = 0
        """Steps so far."""
        self._settings, self._schedule, self._order = settings, schedule, order

    def steps(self, count: int) -> None:
        """Train for so many more steps, and wait for them."""
        seed, batch, size = self._schedule.seed, self._schedule.batch_size, self.spec.latent_size
        for number in range(self.done, self.done + count):
            latents = latents_of_step(seed, number, batch, size)
            hyper = hyper_at(self._settings, self._schedule, number)
            self.backend.step(number, self._order(number), latents, hyper)
            if number % REPORT_EVERY == REPORT_EVERY - 1:
                self.backend.figures()
        self.done += count
        self.backend.figures()  # all of it is done when these are known


@contextmanager
def training(
    framework: str, preset: str, dataset: Dataset, schedule: Schedule, machine: Machine
) -> Iterator[Training]:
    """A preset's training on a dataset, before its first step."""
    with training_of(framework, preset, settings_of(preset), dataset, schedule, machine) as found:
        yield found


@contextmanager
def training_of(
    framework: str,
    preset: str,
    settings: GANSettings,
    dataset: Dataset,
    schedule: Schedule,
    machine: Machine,
) -> Iterator[Training]:
    """The same, of settings that are not those of params.yaml."""
    kind = model_class("gan", framework)
    assert issubclass(kind, GAN)
    spec = kind.describe(dataset, preset, settings)
    with kind.open_backend(dataset, spec, settings, schedule, machine) as backend:
        order = Order(len(dataset.train), schedule.batch_size, schedule.seed)
        yield Training(backend, spec, settings, schedule, order)


@contextmanager
def engine(
    framework: str,
    preset: str,
    images: Images,
    classes: int,
    batch: int,
    machine: Machine,
) -> Iterator[Callable[[int], None]]:
    """A function that trains a preset on these images for so many more steps, and waits for them."""
    schedule = Schedule(steps=10**6, batch_size=batch, seed=0, checkpoint_seconds=1e9, ticks=1)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = dataset_of(images, classes, Path(scratch) / "dataset")
        with training(framework, preset, dataset, schedule, machine) as found:
            yield found.steps
