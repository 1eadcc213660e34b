"""A process of its own that logs steps as a training does, with a tracker's package on its path.

python tracked_training.py wandb FOLDER finish 50 100 150
"""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
from waiting import wait_until

from troika.errors import DivergedError, TrainingPausedError
from troika.models import trackers
from troika.models.contract import Progress
from troika.models.training_log import TrainingLog

SETTINGS = {"steps": 300, "settings": {"loss": "relativistic", "network": {"channels": 32}}}


def main() -> None:
    """Log the steps, every second one with pictures, and come to the end that is asked for.

    finish; pause; fail; lose: MLflow's store is away while it is told of the last step, and then the training
    fails; hang: before the last step MLflow's server becomes one that never answers, and then it is asked to end.
    """
    tracker, folder, end, *steps = sys.argv[1:]
    with TrainingLog(Path(folder), "r3gan", SETTINGS, tracker) as log:
        for step in map(int, steps[:-1]):
            add(log, step)
        if end == "lose":
            store = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("file:"))
            wait_until(
                lambda: json.loads((Path(folder) / "tracker.json").read_text())["mlflow"]["step"] == int(steps[-2])
            )
            store.rename(f"{store}.away")
            add(log, int(steps[-1]))
            wait_until(lambda: log._trackers[0]._deaf)  # type: ignore[attr-defined]
            shutil.rmtree(store, ignore_errors=True)
            Path(f"{store}.away").rename(store)
            add(log, int(steps[-1]) + 1)  # which it is not told
            raise DivergedError("not_finite", "a loss is not a number")
        if end == "hang":
            silent = socket.create_server(("127.0.0.1", 0))
            sys.modules["mlflow"].set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
            trackers._SHORT_PATIENCE_SECONDS = 0.5
        add(log, int(steps[-1]))
        if end in ("pause", "hang"):
            raise TrainingPausedError("asked to end")
        if end == "fail":
            raise DivergedError("not_finite", "a loss is not a number")


def add(log: TrainingLog, step: int) -> None:
    """One line of the history, and pictures at every second one."""
    samples = np.zeros((20, 8, 8, 1), np.uint8) if step % 100 == 0 else None
    log.add(Progress(step, 300, 1000.0, {"generator_loss": 0.5 + step}, samples))


if __name__ == "__main__":
    try:
        main()
    except (TrainingPausedError, DivergedError) as error:
        sys.exit(str(error))
