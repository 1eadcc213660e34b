"""Train a generative model: dataset -> checkpoint and history.

Does not judge quality; evaluate.py does.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import Field, model_validator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from components.step import run_step
from troika.datasets.contract import Dataset
from troika.datasets.record import dataset_record
from troika.errors import DivergedError, ParameterError, TrainingError, TrainingPausedError
from troika.folders import private_files, replace_folder, write_atomic
from troika.lineage import code_commit, image_digest, package_versions
from troika.models.contract import GenerativeModel, Machine, Progress, Schedule
from troika.models.dry_run import describe_training
from troika.models.registry import check_exists, model_class, settings_class
from troika.models.trackers import check_tracker
from troika.models.training_log import TrainingLog
from troika.params import Params
from troika.threads import cpu_threads
from troika.torchrun import in_first_process, is_started, run_processes

_FACTS = {"presets", "checkpoint_seconds", "device", "precision", "compile", "processes", "tracker"}
"""Parameters that decide how a model is trained, not which."""


class TrainParams(Params):
    """Section `train` of params.yaml."""

    family: str
    framework: str
    preset: str
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=1)
    seed: int = Field(ge=0, lt=2**63)
    checkpoint_seconds: float = Field(gt=0)
    ticks: int = Field(gt=0)
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "on", "off"]
    processes: Literal["auto"] | int
    tracker: str
    presets: dict[str, dict[str, Any]]
    """Settings of each preset, in the terms of its family."""

    @model_validator(mode="after")
    def _know_model_and_preset(self) -> "TrainParams":
        try:
            check_exists(self.family, self.framework)
            check_tracker(self.tracker)
            if self.preset not in self.presets:
                raise ParameterError(
                    f"preset: there is no {self.preset!r}; available: {', '.join(sorted(self.presets))}"
                )
            if self.processes != "auto" and not 1 <= self.processes <= 1024:
                raise ParameterError(f"processes: must be auto, or a number in 1..1024, not {self.processes}")
            self.settings()
        except ParameterError as error:
            raise ValueError(str(error)) from None
        return self

    def settings(self) -> Params:
        """The chosen preset's settings."""
        return settings_class(self.family).parse(self.presets[self.preset], f"presets.{self.preset}")

    def schedule(self) -> Schedule:
        """How long to train."""
        return Schedule(self.steps, self.batch_size, self.seed, self.checkpoint_seconds, self.ticks)

    def machine(self) -> Machine:
        """What to train on."""
        return Machine(self.device, self.precision, self.compile)


def train(
    dataset: Path,
    checkpoint: Path,
    history: Path,
    params: TrainParams,
    state: Path | None = None,
    log: Path | None = None,
    report: Path | None = None,
) -> None:
    """Fit the chosen model to the training split and save it.

    Args:
        dataset: folder that prepare_data wrote.
        checkpoint: folder to write: the model, and the lineage that its bundle will carry.
        history: JSON-lines file to write: losses, other figures and speed by step.
        params: section `train`.
        state: folder where unfinished training is kept; a run that was killed goes on from there when it is
            started again with the same data, parameters and folder. Without it, training starts from nothing.
        log: folder to write: TensorBoard's event files, and the sample grid of every tick. While training they
            are in the folder `state`.
        report: HTML page to write: samples over time, losses.

    Raises:
        DatasetError: the dataset is damaged.
        ParameterError: the model cannot make images of this shape.
        DivergedError: the training cannot become good any more.
        TrainingError: the tracker does not take the run.
        TrainingPausedError: asked to end (SIGTERM); started again with the same `state`, it goes on.
    """
    kind = model_class(params.family, params.framework)
    processes = _count_processes(kind, params)
    if processes > 1 and not is_started():
        paths = {"dataset": dataset, "checkpoint": checkpoint, "history": history}
        paths |= {k: v for k, v in {"state": state, "log": log, "report": report}.items() if v is not None}
        with tempfile.TemporaryDirectory(prefix="troika-train-") as scratch:
            chosen = Path(scratch) / "params.yaml"
            chosen.write_text(yaml.safe_dump({"train": params.model_dump()}), encoding="utf-8")
            options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
            run_processes(processes, "components.train", [*options, "--params", str(chosen)])
        return
    opened, settings = Dataset.open(dataset), params.settings()
    if not in_first_process():
        with tempfile.TemporaryDirectory(prefix="troika-train-") as scratch:
            _fit(kind, opened, params, Path(scratch), TrainingLog(Path(scratch), "", {}), None)
        return
    with _training_folder(state, opened, params) as folder, _progress_bar(params) as bar:
        described = {**params.model_dump(exclude={"presets"}), "settings": settings.model_dump()}
        with private_files():
            opened_log = TrainingLog(folder / "log", params.preset, described, params.tracker)
        with opened_log as written:
            with private_files():
                model = _fit(kind, opened, params, folder, written, bar)
            bar.refresh()
            _save(model, opened, params, settings, checkpoint)
            write_atomic(history, written.stats())
        if log is not None:
            with replace_folder(log) as new:
                shutil.copytree(written.folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.npy"))
        if report is not None:
            about = (
                f"{params.family} / {params.framework} · {params.steps:,} steps of {params.batch_size} images of "
            )
            written.write_report(report, params.preset, f"{about}{opened.info.name} · seed {params.seed}")


def dry_run(dataset: Path, params: TrainParams) -> None:
    """Print the checked parameters, the size of the networks and the memory that training needs, and stop.

    Raises:
        DatasetError: the dataset is damaged.
        ParameterError: the model cannot make images of this shape, or this machine lacks what is asked for.
    """
    kind = model_class(params.family, params.framework)
    opened, processes = Dataset.open(dataset), _count_processes(kind, params)
    needs = kind.needs(opened, params.preset, params.settings(), params.schedule(), params.machine(), processes)
    chosen = params.model_dump(exclude={"presets"}) | {"settings": params.settings().model_dump()}
    print(describe_training(opened, chosen, params.schedule(), needs), end="")


def _count_processes(kind: type[GenerativeModel], params: TrainParams) -> int:
    processes = kind.processes_here(params.machine()) if params.processes == "auto" else params.processes
    if processes > 1 and not kind.trains_in_processes:
        raise ParameterError(f"processes: {params.framework} trains in one process; say 1 or auto, or use pytorch")
    return processes


def _fit(
    kind: type[GenerativeModel],
    dataset: Dataset,
    params: TrainParams,
    folder: Path,
    written: TrainingLog,
    bar: "tqdm[Any] | None",
) -> GenerativeModel:
    def report(progress: Progress) -> None:
        written.add(progress)
        if bar is not None:
            try:
                _show(bar, progress)
            except BrokenPipeError:
                _end_unheard()

    return kind.fit(dataset, params.preset, params.settings(), params.schedule(), params.machine(), folder, report)


def _show(bar: "tqdm[Any]", progress: Progress) -> None:
    losses = "  ".join(
        f"{name.removesuffix('_loss')} {value:.3f}"
        for name, value in progress.figures.items()
        if name.endswith("_loss")
    )
    bar.bar_format = _BAR.format(f"{progress.images_per_second:,.0f} images/s  {losses}")
    if bar.n == 0 and progress.step < progress.steps:
        # Time left is reckoned from here: what came before are compilation, and steps of an earlier process.
        bar.initial = bar.last_print_n = progress.step
        bar.start_t = bar.last_print_t = time.time()
    bar.n = progress.step
    bar.update(0)


def _end_unheard() -> None:
    """Whoever started this and read what it says is gone: do what SIGTERM asks for, and say no more."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.close(silence)
    os.kill(os.getpid(), signal.SIGTERM)


def _save(
    model: GenerativeModel, dataset: Dataset, params: TrainParams, settings: Params, checkpoint: Path
) -> None:
    info = dataset.info
    lineage = {
        "dataset": dataset_record(dataset),
        "code_commit": code_commit(),
        "image": image_digest(),
        "packages": package_versions(),
        # Of the processor: sums differ in their last bits from one number to another.
        "threads": cpu_threads(),
        "train": {
            **params.model_dump(exclude=_FACTS),
            "settings": settings.model_dump(),
        },
    }
    with replace_folder(checkpoint) as new:
        (new / "model").mkdir()
        model.save(new / "model")
        (new / "lineage.json").write_text(json.dumps(lineage, indent=1) + "\n", encoding="utf-8")
        (new / "classes.json").write_text(json.dumps(list(info.classes)) + "\n", encoding="utf-8")


@contextmanager
def _training_folder(state: Path | None, dataset: Dataset, params: TrainParams) -> Iterator[Path]:
    """A folder for the state of this very training, held by one process at a time; removed after success."""
    if state is None:
        with tempfile.TemporaryDirectory(prefix="troika-train-") as scratch:
            try:
                yield Path(scratch)
            except TrainingPausedError:
                raise TrainingError("asked to end; nothing is kept, since no folder `state` was given") from None
        return
    what = [dataset.info.content_hash, params.model_dump(exclude=_FACTS), params.settings().model_dump()]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = state / key
    lock = FileLock(state / f"{key}.lock")
    try:
        with private_files():
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:  # also an OSError
        print("the same training is under way in another process; this one starts from nothing")
        with _training_folder(None, dataset, params) as scratch_folder:
            yield scratch_folder
        return
    except OSError as error:
        raise ParameterError(
            f"state: cannot write {state}: {error.strerror}; user {os.getuid()} must be able to write there, also "
            "on a volume of a cluster (docs/guides/kubeflow.md)"
        ) from None
    try:
        _check_not_failed(folder)
        try:
            yield folder
        except DivergedError as error:
            with private_files():
                write_atomic(folder / _FAILED, json.dumps({**_makers(), "message": str(error)}, indent=1) + "\n")
            raise
        shutil.rmtree(folder)
    finally:
        lock.release()


_FAILED = "failed.json"


def _makers() -> dict[str, Any]:
    """Return what may train otherwise the next time, with the same data and parameters."""
    return {
        "code_commit": code_commit(),
        "image": image_digest(),
        "packages": package_versions(),
        "threads": cpu_threads(),
    }


def _check_not_failed(folder: Path) -> None:
    """Raise TrainingError if this very training has diverged before: it would do so again, after hours.

    A pod's retry cannot be told not to happen: Kubeflow repeats whatever fails.
    """
    try:
        record = json.loads((folder / _FAILED).read_text(encoding="utf-8"))
        message = str(record.pop("message"))
    except (OSError, ValueError, KeyError, AttributeError):
        return
    if record == _makers():
        raise TrainingError(
            f"the same training (data, parameters, code) has failed before, and is not repeated: {message}; "
            f"change a parameter such as seed, or remove {folder}"
        )


_BAR = "{{desc}} {{percentage:3.0f}}% {{bar:16}} {{n:,}}/{{total:,}} steps  {{remaining}} left  {}"


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar for logs: one whole line every few seconds, since a pod's log shows lines only, and each once."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """See tqdm, which returns to the start of the line."""
        last = ""

        def write(line: str) -> None:
            nonlocal last
            if line != last:
                last = line
                file.write(f"{line}\n")
                file.flush()

        return write

    def close(self) -> None:
        """See tqdm, which ends the line here, unless its delay is not over."""
        if not self.disable:
            with suppress(BrokenPipeError):
                self.refresh()
        self.delay = float("inf")
        super().close()


@contextmanager
def _progress_bar(params: TrainParams) -> "Iterator[tqdm[Any]]":
    """A bar that redraws itself on a terminal, below what is said meanwhile; lines in a log."""
    redraws = sys.stdout.isatty() or "TROIKA_REDRAWS_PROGRESS" in os.environ
    kind: type[tqdm[Any]] = tqdm if redraws else _Lines
    with (
        kind(
            total=params.steps,
            desc=f"{params.preset}",
            unit="step",
            file=sys.stdout,
            mininterval=0.5 if redraws else 5,
            miniters=1,
            bar_format=_BAR.format("starting"),
            dynamic_ncols=True,
            ascii=False,
        ) as bar,
        logging_redirect_tqdm([logging.getLogger("troika")]) if redraws else nullcontext(),
    ):
        yield bar


if __name__ == "__main__":
    run_step(train)
