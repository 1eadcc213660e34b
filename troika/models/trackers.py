"""Weights & Biases and MLflow: where a training's figures and pictures go as well, if these are installed.

A training that goes on after an interruption goes on in the same run there, and tells it no step twice. A tracker
that fails or hangs does not hold up the steps, as a thread of its own tells it; only the end waits, for a while.
"""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from PIL import Image

from troika.errors import ParameterError, TrainingError
from troika.folders import write_atomic

End = Literal["finished", "paused", "failed"]
_RUN = "tracker.json"
_PATIENCE_SECONDS = 120.0
_SHORT_PATIENCE_SECONDS = 10.0
"""With a tracker that has failed before, and where a pod that is asked to end has little time."""
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Somewhere that figures and pictures go."""

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        """Take in one line of the history."""

    def close(self, end: End) -> None:
        """No more will come; `paused`, and more may come when the training is started again."""


class _Run(Tracker, Protocol):
    """One training in a package's terms."""

    name: str
    """By which the package's server knows it."""


class _WeightsAndBiases:
    def __init__(self, title: str, settings: dict[str, Any], known: str | None) -> None:
        self._wandb = import_module("wandb")
        self._run = self._wandb.init(name=title, config=settings, id=known, resume="allow")
        self.name: str = self._run.id

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        pictures = {} if picture is None else {"samples": self._wandb.Image(picture)}
        self._run.log({**figures, **pictures}, step=step)

    def close(self, end: End) -> None:
        if end == "paused":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if end == "finished" else 1)


class _MLflow:
    """Its functions know the run by the thread that has started it."""

    def __init__(self, title: str, settings: dict[str, Any], known: str | None) -> None:
        self._mlflow = import_module("mlflow")
        self.name: str = self._mlflow.start_run(run_id=known, run_name=title).info.run_id
        if known is None:
            try:
                self._mlflow.log_params(_flat(settings))
            except BaseException:
                self.close("failed")
                raise

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        self._mlflow.log_metrics(figures, step=step)
        if picture is not None:
            self._mlflow.log_image(picture, f"samples/step_{step:09}.png")

    def close(self, end: End) -> None:
        self._mlflow.end_run({"finished": "FINISHED", "paused": "KILLED", "failed": "FAILED"}[end])


_TRACKERS: dict[str, Callable[[str, dict[str, Any], str | None], _Run]] = {
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}
"""By the name of the package."""


class TrackedRun:
    """A training's run in a tracker. The log's folder remembers its name there, and the last step it was told.

    Args:
        folder: of the log.
        tracker: its package's name.
        title: of the run.
        settings: of the run; may be nested.

    Raises:
        TrainingError: the tracker does not take the run.
    """

    def __init__(self, folder: Path, tracker: str, title: str, settings: dict[str, Any]) -> None:
        self._tracker, self._path = tracker, folder / _RUN
        self._memory = _remembered(self._path)
        earlier = self._memory.get(tracker, {"run": None, "step": 0})
        self._told = earlier["step"]
        self._jobs: SimpleQueue[Callable[[_Run], object] | None] = SimpleQueue()
        self._deaf = self._closed = False
        self._writing = threading.Lock()
        started: SimpleQueue[BaseException | None] = SimpleQueue()
        what = (title, settings, earlier["run"], started)
        self._thread = threading.Thread(target=self._work, args=what, daemon=True)
        self._thread.start()
        if error := started.get():
            known = f"; or remove {self._path} to begin another run there" if earlier["run"] else ""
            raise TrainingError(
                f"tracker: {tracker} does not take the run: {_said_by(error)}; "
                f"mend its settings{known}, or say none"
            )

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        """See Tracker. Returns at once; steps that it has been told before are left out."""
        if step <= self._told:
            return

        def tell(run: _Run) -> None:
            if not self._deaf:
                run.log(step, figures, picture)
                self._remember(run.name, step)

        self._jobs.put(tell)

    def close(self, end: End) -> None:
        """See Tracker. Waits for what it has still to be told, but not for ever."""
        self._jobs.put(lambda run: run.close(end))
        self._jobs.put(None)
        self._thread.join(_SHORT_PATIENCE_SECONDS if self._deaf or end == "paused" else _PATIENCE_SECONDS)
        with self._writing:  # what follows may copy or remove the folder
            self._closed = True
        if self._thread.is_alive():
            _log.warning("%s does not answer; what it has not been told stays untold", self._tracker)

    def _work(
        self,
        title: str,
        settings: dict[str, Any],
        known: str | None,
        started: "SimpleQueue[BaseException | None]",
    ) -> None:
        """The thread: everything that the package is asked for."""
        run: _Run | None = None
        try:
            run = _TRACKERS[self._tracker](title, settings, known)
            self._remember(run.name, self._told)
        except BaseException as error:
            if run is not None:
                with suppress(Exception):
                    run.close("failed")
            started.put(error)
            return
        started.put(None)
        while (job := self._jobs.get()) is not None:
            try:
                job(run)
            except Exception as error:  # whatever another package and its server come up with
                if not self._deaf:
                    _log.warning("%s has failed, and is told no more: %s", self._tracker, _said_by(error))
                self._deaf = True

    def _remember(self, run: str, step: int) -> None:
        self._memory[self._tracker] = {"run": run, "step": step}
        with self._writing:
            if not self._closed:
                write_atomic(self._path, json.dumps(self._memory) + "\n")


def check_tracker(name: str) -> None:
    """Raise ParameterError unless the tracker is `none`, or known and installed."""
    if name == "none":
        return
    if name not in _TRACKERS:
        raise ParameterError(f"tracker: there is no {name!r}; available: none, {', '.join(_TRACKERS)}")
    try:
        import_module(name)
    except ImportError:
        raise ParameterError(f"tracker: {name} is not installed; pip install {name}, or say none") from None


def _remembered(path: Path) -> dict[str, Any]:
    """What an earlier process has written there: {"wandb": {"run": its name, "step": the last one told}}."""
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))
        return {tracker: {"run": str(run["run"]), "step": int(run["step"])} for tracker, run in memory.items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"network": {"channels": 32}} -> {"network.channels": 32}: one parameter for each, to compare runs by."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _said_by(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
