"""Generators made of real images, good and spoilt on purpose, and the judge, asked briefly about one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate import EvaluateParams
from troika.datasets.contract import Images, Labels, Split
from troika.quality.gate import Measure
from troika.quality.generator import OnnxGenerator
from troika.quality.judge import Generator, Judged, SampleParams, judge
from troika.quality.real import RealSide
from troika.quality.spoiled import images_of

Draw = Callable[[np.random.Generator, Labels], Images]


class MadeUpGenerator(OnnxGenerator):
    """A generator whose images are made by `draw`; no graph behind it."""

    conditional = True  # type: ignore[assignment]

    def __init__(self, draw: Draw, *, conditional: bool = True) -> None:
        super().__init__(Path("nowhere"))
        self._draw = draw
        self.conditional = conditional
        self.asked: list[tuple[np.ndarray, Labels]] = []

    def draw(self, seeds: np.ndarray, labels: Labels) -> Images:
        self.asked.append((seeds, labels))
        return self._draw(np.random.default_rng(int(seeds[0])), labels)


def noise(rng: np.random.Generator, labels: Labels) -> Images:
    return rng.integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)


def one_grey(rng: np.random.Generator, labels: Labels) -> Images:
    return np.full((len(labels), 8, 8, 1), 128, np.uint8)


def few_of_each_class(real: Split, count: int) -> Draw:
    chosen = np.concatenate([np.flatnonzero(real.labels == label)[:count] for label in range(10)])
    return images_of(Split(real.images[chosen], real.labels[chosen]))


def one_image_whatever_the_label(real: Split) -> Draw:
    return lambda rng, labels: np.repeat(real.images[:1], len(labels), axis=0)


def with_wrong_labels(real: Split, share: float) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        wrong = rng.random(len(labels)) < share
        return images_of(real)(rng, np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels))

    return draw


def without_class_0(real: Split) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        return images_of(real)(rng, np.where(labels == 0, rng.integers(1, 10, len(labels)), labels))

    return draw


def blurred(real: Split) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        padded = np.pad(images_of(real)(rng, labels).astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        windows = [padded[:, down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
        return np.rint(np.mean(windows, axis=0)).astype(np.uint8)

    return draw


def noisy(real: Split, sigma: float) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        images = images_of(real)(rng, labels)
        return np.clip(np.rint(images + rng.normal(0, sigma, images.shape)), 0, 255).astype(np.uint8)

    return draw


def with_some(spoilt: Draw, real: Split, share: float) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        chosen = rng.random(len(labels)) < share
        return np.where(chosen[:, None, None, None], spoilt(rng, labels), images_of(real)(rng, labels))

    return draw


def mean_of_two(real: Split) -> Draw:
    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        one, other = images_of(real)(rng, labels), images_of(real)(rng, labels)
        return ((one.astype(int) + other) // 2).astype(np.uint8)

    return draw


FEW = SampleParams(batches=3, batch_size=100, budget=3, real=50_000, seed=5)


def judge_few(
    generator: Generator, real: RealSide, params: EvaluateParams, champion: Generator | None = None, **changes: Any
) -> Judged:
    samples = SampleParams.model_validate({**FEW.model_dump(), **changes})
    return judge(generator, real, samples, params.limits, champion, params.champion)


def entry_of(judged: Judged, name: str) -> Measure:
    (entry,) = [entry for entry in judged.judgement.measures if entry.name == name]
    return entry
