"""What a training leaves to look at: stats.jsonl, a TensorBoard log, and sample grids. Knows no framework.

Everything is written while the training runs, so that it can be followed, and goes on where a killed run was.
"""

import functools
import json
import logging
import math
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from troika.errors import TrainingPausedError
from troika.folders import write_atomic
from troika.models.contract import Images, Progress
from troika.models.trackers import End, TrackedRun, Tracker, check_tracker
from troika.pages import write_page
from troika.pictures import data_uri, grid, save_png

STATS = "stats.jsonl"
_SAMPLES = "samples"
_STRIP_ROWS = 16
_STRIP_COLUMNS = 10
_STRIP_EDGE = 32  # pixels; larger images are shrunk, so that a page stays below 2 MB
_CURVES = (("generator_loss", "#1f5fbf"), ("discriminator_loss", "#c2410c"))


class TrainingLog:
    """One training's log in a folder: `stats.jsonl`, TensorBoard's event files, `samples/step_000500.png`."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], tracker: str = "none") -> None:
        """Open the log, or go on with it.

        Args:
            folder: made where it is missing.
            name: of the run, for a tracker.
            settings: of the run, for a tracker.
            tracker: `none`, or the package of a place that figures go to as well, while the log is open.

        Raises:
            ParameterError: the tracker is unknown or not installed.
        """
        check_tracker(tracker)
        self.folder = folder
        (folder / _SAMPLES).mkdir(parents=True, exist_ok=True)
        path = folder / STATS
        self._lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._trackers: list[Tracker] = []
        self._tensorboard: _TensorBoard | None = None
        self._open_run = (
            functools.partial(TrackedRun, folder, tracker, name, settings) if tracker != "none" else None
        )

    def __enter__(self) -> Self:
        """See ContextManager.

        Raises:
            TrainingError: the tracker does not take the run.
        """
        if self._open_run is not None:
            self._trackers.append(self._open_run())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end: End = "finished" if kind is None else "paused" if issubclass(kind, TrainingPausedError) else "failed"
        with ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close, end)

    def add(self, progress: Progress) -> None:
        """Write one line, and the picture of a tick."""
        # A resumed run repeats the steps between its last saved state and the kill.
        while self._lines and self._last_step() >= progress.step:
            self._lines.pop()
        if self._tensorboard is None:
            self._tensorboard = _TensorBoard(self.folder, self._last_step())
            self._trackers.append(self._tensorboard)
        line = {"step": progress.step, "steps": progress.steps, "images_per_second": progress.images_per_second}
        self._lines.append(json.dumps(line | progress.figures))
        write_atomic(self.folder / STATS, self.stats())
        picture = None
        if progress.samples is not None:
            picture = grid(progress.samples, columns=_STRIP_COLUMNS)
            save_png(picture, self.folder / _SAMPLES / f"step_{progress.step:09}.png")
            np.save(self.folder / _SAMPLES / f"step_{progress.step:09}.npy", progress.samples[:_STRIP_COLUMNS])
        figures = {**progress.figures, "images_per_second": progress.images_per_second}
        for tracker in self._trackers:
            tracker.log(progress.step, figures, picture)

    def stats(self) -> str:
        """The history: one JSON object a line."""
        return "".join(f"{line}\n" for line in self._lines)

    def write_report(self, path: Path, title: str, about: str) -> None:
        """One HTML page: samples of every tick as a film strip, curves, the last figures."""
        lines = [json.loads(line) for line in self._lines]
        shots = sorted((self.folder / _SAMPLES).glob("*.npy"))
        chosen = sorted({round(at) for at in np.linspace(0, len(shots) - 1, min(_STRIP_ROWS, len(shots)))})
        strip = [(int(shots[at].stem.removeprefix("step_")), np.load(shots[at])) for at in chosen]
        last = sorted((self.folder / _SAMPLES).glob("*.png"))[-1:]
        write_page(
            path,
            "training.html.j2",
            title=title,
            about=about,
            strip=[
                (step, data_uri(grid(_shrink(images), columns=len(images), scale=2))) for step, images in strip
            ],
            final=data_uri(_small(Image.open(last[0]))) if last else None,
            curves=[
                {"name": name.replace("_", " "), "colour": colour, "points": _polyline(lines, name)}
                for name, colour in _CURVES
            ],
            figures=lines[-1] if lines else {},
        )

    def _last_step(self) -> int:
        return int(json.loads(self._lines[-1])["step"]) if self._lines else 0


class _TensorBoard:
    """Event files that TensorBoard reads; written by tensorboardX, which needs neither framework."""

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - takes a second, and sampling needs no log

        # The package says on each start that it has no parser for its own configuration.
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        # Its files are named by the second: one that is opened within the same one would replace the other.
        suffix = f".after_{done}" if done else ""
        self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None, filename_suffix=suffix)

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{_group(name)}/{name}", value, step)
        if picture is not None:
            self._writer.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self, end: End) -> None:  # noqa: ARG002 - its files do not tell
        self._writer.close()


def _group(name: str) -> str:
    for word, group in (("loss", "losses"), ("penalty_r", "penalties"), ("penalty_w", "penalties")):
        if word in name:
            return group
    if name.endswith("gradient_norm"):
        return "gradient_norms"
    if name in ("learning_rate", "beta2", "penalty_gamma", "average_decay"):
        return "schedules"
    return "samples" if name in ("variety", "validation_distance") else "training"


def _shrink(images: Images) -> Images:
    factor = -(-images.shape[1] // _STRIP_EDGE)
    return images[:, ::factor, ::factor] if factor > 1 else images


def _small(picture: Image.Image) -> Image.Image:
    factor = max(1, -(-picture.width // (_STRIP_COLUMNS * _STRIP_EDGE + 40)))
    return picture.reduce(factor) if factor > 1 else picture.resize((2 * picture.width, 2 * picture.height), 0)


def _polyline(lines: list[dict[str, Any]], name: str) -> str:
    """Points of an SVG polyline in a box of 600 x 150; the scale runs from 0 to the largest loss of all."""
    top = max((line.get(key, 0) for line in lines for key, _ in _CURVES), default=1)
    low = min((line.get(key, 0) for line in lines for key, _ in _CURVES), default=0)
    span = top - low if top > low and math.isfinite(top - low) else 1
    last = lines[-1]["step"] if lines else 1
    return " ".join(
        f"{600 * line['step'] / last:.1f},{150 - 150 * (line[name] - low) / span:.1f}" for line in lines
    )
