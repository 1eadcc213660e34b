"""Train a generative model: dataset -> checkpoint and history.

Does not judge quality; evaluate.py does.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field, model_validator
from tqdm import tqdm

from components.step import run_step
from troika.datasets.contract import Dataset
from troika.datasets.dvc_hash import dvc_hash
from troika.errors import ParameterError
from troika.folders import replace_folder, write_atomic
from troika.lineage import code_commit, image_digest, package_versions
from troika.models.contract import GenerativeModel, Progress, Schedule
from troika.models.registry import check_exists, model_class, settings_class
from troika.params import Params


class TrainParams(Params):
    """Section `train` of params.yaml."""

    family: str
    framework: str
    preset: str
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=1)
    seed: int = Field(ge=0, lt=2**63)
    checkpoint_seconds: float = Field(gt=0)
    presets: dict[str, dict[str, Any]]
    """Settings of each preset, in the terms of its family."""

    @model_validator(mode="after")
    def _know_model_and_preset(self) -> "TrainParams":
        try:
            check_exists(self.family, self.framework)
            if self.preset not in self.presets:
                raise ParameterError(
                    f"preset: there is no {self.preset!r}; available: {', '.join(sorted(self.presets))}"
                )
            self.settings()
        except ParameterError as error:
            raise ValueError(str(error)) from None
        return self

    def settings(self) -> Params:
        """The chosen preset's settings."""
        return settings_class(self.family).parse(self.presets[self.preset], f"presets.{self.preset}")


def train(dataset: Path, checkpoint: Path, history: Path, params: TrainParams, state: Path | None = None) -> None:
    """Fit the chosen model to the training split and save it.

    Args:
        dataset: folder that prepare_data wrote.
        checkpoint: folder to write: the model, and the lineage that its bundle will carry.
        history: JSON-lines file to write: losses and speed by step.
        params: section `train`.
        state: folder where unfinished training is kept; a run that was killed goes on from there when it is
            started again with the same data, parameters and folder. Without it, training starts from nothing.

    Raises:
        DatasetError: the dataset is damaged.
        ParameterError: the model cannot make images of this shape.
    """
    opened = Dataset.open(dataset)
    settings = params.settings()
    schedule = Schedule(params.steps, params.batch_size, params.seed, params.checkpoint_seconds)
    with _training_folder(state, opened, params) as folder, _progress_bar(params) as bar:
        lines = _read_history(folder / "history.jsonl")

        def report(progress: Progress) -> None:
            # A resumed run repeats the steps between its last saved state and the kill.
            while lines and json.loads(lines[-1])["step"] >= progress.step:
                lines.pop()
            lines.append(json.dumps(vars(progress)))
            write_atomic(folder / "history.jsonl", "\n".join(lines) + "\n")
            bar.n = progress.step
            losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
            bar.bar_format = _BAR.format(f"{progress.images_per_second:,.0f} images/s  {losses}")
            bar.update(0)

        model = model_class(params.family, params.framework).fit(
            opened, params.preset, settings, schedule, folder, report
        )
        bar.refresh()
        _save(model, opened, params, settings, checkpoint)
        write_atomic(history, "\n".join(lines) + "\n")


def _read_history(path: Path) -> list[str]:
    """The history of the part that an earlier, killed run has done; empty without one."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _save(
    model: GenerativeModel, dataset: Dataset, params: TrainParams, settings: Params, checkpoint: Path
) -> None:
    info = dataset.info
    lineage = {
        "dataset": {
            "name": info.name,
            "source": info.source,
            "content_hash": info.content_hash,
            "dvc_hash": dvc_hash(dataset.folder),
            "counts": info.counts,
        },
        "code_commit": code_commit(),
        "image": image_digest(),
        "packages": package_versions(),
        "train": {
            **params.model_dump(exclude={"presets", "checkpoint_seconds"}),
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
            yield Path(scratch)
        return
    what = [dataset.info.content_hash, params.model_dump(exclude={"checkpoint_seconds"})]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = state / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"state: cannot write {state}: {error.strerror}") from None
    lock = FileLock(state / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("the same training is under way in another process; this one starts from nothing")
        with _training_folder(None, dataset, params) as scratch_folder:
            yield scratch_folder
        return
    with lock:
        yield folder
        shutil.rmtree(folder)
    lock.release()


_BAR = "{{desc}} {{percentage:3.0f}}% {{bar:16}} {{n:,}}/{{total:,}} steps  {{remaining}} left  {}"


def _progress_bar(params: TrainParams) -> "tqdm[Any]":
    # A bar that redraws itself on a terminal, one line every few seconds in a log.
    return tqdm(
        total=params.steps,
        desc=f"{params.preset}",
        unit="step",
        file=sys.stdout,
        mininterval=0.5 if sys.stdout.isatty() or "TROIKA_REDRAWS_PROGRESS" in os.environ else 5,
        miniters=1,
        bar_format=_BAR.format("starting"),
        dynamic_ncols=True,
        ascii=False,
    )


if __name__ == "__main__":
    run_step(train)
