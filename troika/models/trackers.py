"""Places elsewhere that a training's figures and pictures go to, where their packages are installed.

A training that goes on after an interruption goes on in the same run there, with every step once. A place that
fails while a training runs costs the training nothing.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from troika.errors import ParameterError, TrainingError
from troika.folders import write_atomic

End = Literal["finished", "paused", "failed"]
_RUN = "tracker.json"


class Tracker(Protocol):
    """Somewhere else that figures and pictures go."""

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        """Take in one line of the history."""

    def close(self, end: End) -> None:
        """No more will come; `paused`, and more may come when the training is started again."""


class _Run(Tracker, Protocol):
    """One training in a tracker of the user's."""

    name: str
    """By which the tracker knows it."""


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
    def __init__(self, title: str, settings: dict[str, Any], known: str | None) -> None:
        self._mlflow = import_module("mlflow")
        self.name: str = self._mlflow.start_run(run_id=known, run_name=title).info.run_id
        if known is None:
            self._mlflow.log_params(_flat(settings))

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


class Elsewhere:
    """A training's run in a tracker, which the folder of its log remembers.

    Args:
        folder: of the log.
        tracker: its package's name.
        title: of the run.
        settings: of the run; may be nested.
        done: steps up to which an earlier process has told the tracker everything.

    Raises:
        TrainingError: the tracker did not take the run.
    """

    def __init__(self, folder: Path, tracker: str, title: str, settings: dict[str, Any], done: int) -> None:
        self._tracker = tracker
        path = folder / _RUN
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        try:
            self._run: _Run | None = _TRACKERS[tracker](title, settings, earlier.get(tracker))
        except Exception as error:
            raise TrainingError(
                f"tracker: {tracker} does not take the run: {_said_by(error)}; mend its settings, or say none"
            ) from None
        self._done = done if tracker in earlier else 0
        write_atomic(path, json.dumps({**earlier, tracker: self._run.name}) + "\n")

    def log(self, step: int, figures: dict[str, float], picture: Image.Image | None) -> None:
        """See Tracker. Steps that it has been told before are left out."""
        if step > self._done:
            self._tell(lambda run: run.log(step, figures, picture))

    def close(self, end: End) -> None:
        """See Tracker."""
        self._tell(lambda run: run.close(end))

    def _tell(self, what: Callable[[_Run], None]) -> None:
        if self._run is None:
            return
        try:
            what(self._run)
        except Exception as error:  # whatever another package and its server come up with
            self._run = None
            print(f"\n{self._tracker} has failed, and is told no more: {_said_by(error)}", flush=True)


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


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"network": {"channels": 32}} -> {"network.channels": 32}: one parameter for each, to compare runs by."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _said_by(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
