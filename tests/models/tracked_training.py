"""A process of its own that logs steps as a training does, with a tracker's package on its path.

python tracked_training.py wandb FOLDER finish 50 100 150
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np

from troika.errors import DivergedError, TrainingPausedError
from troika.models.contract import Progress
from troika.models.training_log import TrainingLog

SETTINGS = {"steps": 300, "settings": {"loss": "relativistic", "network": {"channels": 32}}}


def main() -> None:
    """Log the steps, every second one with pictures, and come to the end that is asked for.

    finish; pause; fail; lose: somebody takes MLflow's store away at step 100.
    """
    tracker, folder, end, *steps = sys.argv[1:]
    with TrainingLog(Path(folder), "r3gan", SETTINGS, tracker) as log:
        for step in map(int, steps):
            if end == "lose" and step == 100:
                shutil.rmtree(os.environ["MLFLOW_TRACKING_URI"].removeprefix("file:"))
            samples = np.zeros((20, 8, 8, 1), np.uint8) if step % 100 == 0 else None
            log.add(Progress(step, 300, 1000.0, {"generator_loss": 0.5 + step}, samples))
        if end == "pause":
            raise TrainingPausedError("asked to end")
        if end == "fail":
            raise DivergedError("not_finite", "a loss is not a number")


if __name__ == "__main__":
    try:
        main()
    except (TrainingPausedError, DivergedError) as error:
        sys.exit(str(error))
