"""For time_to_quality: one training, looked at again and again. Prints nothing."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine import Training, training
from troika.datasets.contract import Dataset
from troika.folders import write_atomic
from troika.models.contract import Machine, Schedule
from troika.models.gan.batches import derive_seed
from troika.models.registry import model_class
from troika.quality.evaluator import Evaluator
from troika.quality.measures import Moments, distance_to

_UNLIMITED = 10**6
_STEPS_AT_ONCE = {"cpu": 10, "cuda": 50}
_GROWTH = 1.15
"""From one look to the next, of the seconds of training."""
_LEAST_SECONDS = {"cpu": 0.5, "cuda": 0.1}
"""Between two looks."""


@dataclass(frozen=True)
class Run:
    """One training; all of it together tells it from others."""

    data: str
    preset: str
    framework: str
    device: str
    seed: int
    batch_size: int
    steps: int | None
    """It ends after so many steps ..."""
    most_seconds: float | None
    """... or, where those are not limited, after so many seconds of training."""
    evaluator: str
    """Digest of the one that judges."""
    samples: int
    """Images drawn at a look."""
    settings: str
    """The preset's, as JSON."""


@dataclass(frozen=True)
class Look:
    """What a training was worth at one moment."""

    step: int
    seconds: float
    """Of training until then, looks left out: of the processor or, on a GPU, by the clock."""
    wall_seconds: float
    frechet_distance: float
    look_seconds: float
    """That the look itself took."""


def write_moments(folder: Path, samples: int) -> None:
    """Those of the training images' features, once for all trainings; and two distances to compare with."""
    dataset, evaluator = Dataset.open(folder / "dataset"), Evaluator.open(folder / "evaluator.onnx")
    features, _ = evaluator.look_at(np.asarray(dataset.train.images))
    held_out, _ = evaluator.look_at(np.asarray(dataset.held_out.images))
    of_train = Moments.of(features)
    distance = distance_to(of_train)
    drawn = features[np.random.default_rng(0).integers(0, len(features), samples)]
    compared = {"drawn": distance(Moments.of(drawn)), "held_out": distance(Moments.of(held_out))}
    np.savez(folder / "moments.npz", **asdict(of_train), **compared, held_out_number=len(held_out))


def train_and_look(run: Run, folder: Path, found: Path) -> None:
    """Train, look, and write the looks to the file `found` as JSON.

    Args:
        run: what to train.
        folder: with `dataset`, `evaluator.onnx` and `moments.npz`.
        found: file to write.
    """
    dataset, look = Dataset.open(folder / "dataset"), _Looker(folder, run.samples)
    schedule = Schedule(run.steps or _UNLIMITED, run.batch_size, run.seed, checkpoint_seconds=1e9, ticks=1)
    model_class("gan", run.framework)  # imports the framework, which is no training
    looks: list[Look] = []
    on_gpu = run.device == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    began, wall = clock(), time.perf_counter()
    with training(run.framework, run.preset, dataset, schedule, Machine("cuda" if on_gpu else "cpu")) as trained:
        seconds, wall_seconds, due, ended = 0.0, 0.0, 0.0, False
        while not ended:
            trained.steps(min(_STEPS_AT_ONCE[run.device], schedule.steps - trained.done))
            seconds += clock() - began
            wall_seconds += time.perf_counter() - wall
            ended = trained.done == schedule.steps or seconds >= (run.most_seconds or float("inf"))
            if ended or seconds >= due:
                started = clock()
                distance = look(trained)
                looks.append(Look(trained.done, seconds, wall_seconds, distance, clock() - started))
                due = max(seconds * _GROWTH, seconds + _LEAST_SECONDS[run.device])
            began, wall = clock(), time.perf_counter()
    write_atomic(found, json.dumps([asdict(one) for one in looks]))


class _Looker:
    """Fréchet distance of a training's moving average to the training images; always the same latents."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._samples = samples
        self._evaluator = Evaluator.open(folder / "evaluator.onnx")
        with np.load(folder / "moments.npz") as kept:
            self._distance = distance_to(Moments(int(kept["count"]), kept["mean"], kept["scatter"]))

    def __call__(self, trained: Training) -> float:
        spec = trained.spec
        random = np.random.default_rng(derive_seed(0, "looks", 0))
        latents = random.standard_normal((self._samples, spec.latent_size), np.float32)
        labels = np.arange(self._samples) % spec.num_classes if spec.conditional else None
        features, _ = self._evaluator.look_at(trained.backend.sample(latents, labels))
        return self._distance(Moments.of(features))
