"""The GAN training loop: a backend, a dataset, settings and a schedule -> a generator's weights.

Every step depends on the weights before it, the seed and its own number, so a resumed run gives bit by bit what an
uninterrupted one on the same machine would have given. Knows no framework: one step of both networks is the
backend's; batches, schedules, the saved state and the watch over it have modules of their own.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from troika.datasets.contract import Dataset
from troika.errors import ParameterError, TrainingPausedError
from troika.models.contract import Labels, Latents, ModelSpec, Progress, Schedule
from troika.models.gan.backend import Backend, Team
from troika.models.gan.batches import Order, derive_seed, latents_of_step
from troika.models.gan.figures import REPORT_EVERY, Rows, mean_figures
from troika.models.gan.health import Reference, Watch
from troika.models.gan.layers import Weights
from troika.models.gan.saved_state import SavedState, Tensors, identify_training, load_state, save_state
from troika.models.gan.schedules import hyper_at
from troika.models.gan.settings import GANSettings

_AGREE_EVERY = 10
"""Steps between two questions to the other processes whether one of them was asked to end."""
_GRID_ROWS = 6
_GRID_COLUMNS = 10
_log = logging.getLogger(__name__)


def run_training(
    backend: Backend,
    dataset: Dataset,
    spec: ModelSpec,
    settings: GANSettings,
    schedule: Schedule,
    state: Path,
    report: Callable[[Progress], None],
) -> Weights:
    """Train on `dataset.train`, resuming from the folder `state` if that holds this very training.

    Returns:
        Weights of the moving average: the last ones or, where the settings stop early, the best ones.

    Raises:
        ParameterError: the schedule is out of range.
        DivergedError: it cannot become good any more.
        TrainingPausedError: the process was asked to end; the state is saved.
        TroikaError: the state cannot be saved.
    """
    team = backend.team
    share = _share_of_batch(schedule, team)

    # Where an earlier run of this training was cut off.
    identity = identify_training(dataset, spec, settings, schedule)
    saved = team.from_first(load_state(state, identity) if team.rank == 0 else None)
    best = None
    if saved is not None:
        tensors, best = _without_best(saved.tensors)
        backend.restore(tensors, saved.step)
    first_step, memory = (saved.step, saved.memory) if saved else (0, None)

    order = Order(len(dataset.train), schedule.batch_size, schedule.seed)
    watch = Watch(settings, schedule.steps, memory)
    reference = Reference(dataset.splits["validation"], spec, schedule.seed)
    grid = _grid(spec, schedule.seed)
    ticks = tick_steps(schedule)
    upcoming = order(first_step)[share]
    timed_from, timed_at, saved_at = first_step, time.monotonic(), time.monotonic()

    with _asked_to_end() as asked:
        for step in range(first_step, schedule.steps):
            # This step's images, latents and numbers; then both networks and the average, in the backend.
            latents = latents_of_step(schedule.seed, step, schedule.batch_size, spec.latent_size)
            hyper = hyper_at(settings, schedule, step)
            indices = upcoming
            backend.step(step, indices, latents[share], hyper)
            done = step + 1
            backend.announce(upcoming := order(done)[share])

            # Every few steps: figures, and whether they still make sense.
            if done % REPORT_EVERY == 0 or done == schedule.steps:
                rows = team.mean(_rows_before(backend, done))
                watch.check_figures(done, rows)
                figures = mean_figures(rows) | _schedule_figures(settings, schedule, step)
                speed = (done - timed_from) * schedule.batch_size / (time.monotonic() - timed_at)
                samples = None

                # At a tick: samples, whether they still vary, and how near they are to validation images.
                if done in ticks:
                    look = team.from_first(reference.look(backend.sample(reference.latents, reference.labels)))
                    if watch.check_samples(done, look) and settings.early_stop_patience:
                        best = backend.average()
                    figures |= vars(look)
                    samples = backend.sample(*grid)

                if team.rank == 0:
                    report(Progress(done, schedule.steps, speed, figures, samples))
                timed_from, timed_at = done, time.monotonic()
                if watch.stops_early:
                    _log.warning("early stop after step %d: no better figure on validation images", done)
                    break

            # Every few seconds, and before this process has to end: the state.
            ending = asked() if team.size == 1 else done % _AGREE_EVERY == 0 and team.any(asked())
            due = time.monotonic() - saved_at >= schedule.checkpoint_seconds
            if team.rank == 0 and (ending or due) and done < schedule.steps:
                watch.check_figures(done, _rows_before(backend, done), last=False)
                save_state(state, identity, SavedState(done, _with_best(backend.state(), best), watch.memory))
                saved_at = time.monotonic()
            if ending and done < schedule.steps:
                raise TrainingPausedError(
                    f"asked to end after step {done} of {schedule.steps}; the training state is saved in {state}, "
                    "and the same command goes on from there"
                )

    return backend.average() if best is None else best


def _share_of_batch(schedule: Schedule, team: Team) -> slice:
    """Which part of every batch is this process's."""
    check_schedule(schedule, team.size)
    size = schedule.batch_size // team.size
    return slice(team.rank * size, (team.rank + 1) * size)


def check_schedule(schedule: Schedule, processes: int) -> None:
    """Raise ParameterError where a number is too small, or a batch cannot be shared evenly."""
    for name, value, least in [
        ("steps", schedule.steps, 1), ("batch_size", schedule.batch_size, 2), ("ticks", schedule.ticks, 1)
    ]:  # fmt: skip
        if value < least:
            raise ParameterError(f"{name}: {value} is too small; at least {least}")
    if schedule.batch_size % processes:
        raise ParameterError(
            f"batch_size: {schedule.batch_size} cannot be shared evenly by {processes} processes; give a multiple "
            f"of {processes}, such as {-(-schedule.batch_size // processes) * processes}"
        )


def tick_steps(schedule: Schedule) -> set[int]:
    """After how many steps samples are looked at: `ticks` times, always where figures are read as well."""
    even = [-(-schedule.steps * tick // schedule.ticks) for tick in range(1, schedule.ticks + 1)]
    return {min(-(-step // REPORT_EVERY) * REPORT_EVERY, schedule.steps) for step in even}


def _rows_before(backend: Backend, done: int) -> Rows:
    """What the steps since the last report have noted down."""
    rows = backend.figures()
    return rows[: (done - 1) % REPORT_EVERY + 1]


def _grid(spec: ModelSpec, seed: int) -> tuple[Latents, Labels | None]:
    """Latents and labels of the sample grid: a column for each class, at most ten."""
    columns = min(spec.num_classes, _GRID_COLUMNS) if spec.conditional else _GRID_COLUMNS
    count = _GRID_ROWS * columns
    random = np.random.default_rng(derive_seed(seed, "grid", 0))
    latents = random.standard_normal((count, spec.latent_size), np.float32)
    return latents, np.arange(count) % columns if spec.conditional else None


def _schedule_figures(settings: GANSettings, schedule: Schedule, step: int) -> dict[str, float]:
    hyper = hyper_at(settings, schedule, step - step % settings.penalty_every)
    return {
        "learning_rate": hyper.learning_rate,
        "beta2": hyper.beta2,
        "penalty_gamma": hyper.penalty_weight / settings.penalty_every,
        "average_decay": hyper.average_decay,
    }


def _with_best(tensors: Tensors, best: Weights | None) -> Tensors:
    return tensors | {f"best.{name}": value for name, value in (best or {}).items()}


def _without_best(tensors: Tensors) -> tuple[Tensors, Weights | None]:
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    return {name: value for name, value in tensors.items() if not name.startswith("best.")}, best or None


@contextmanager
def _asked_to_end() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGTERM ends nothing; the function yielded says whether it has come."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set  # Python hands signals to the main thread alone
        return

    def note(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of signal handlers
        event.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
