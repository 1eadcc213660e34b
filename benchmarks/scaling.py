"""Images in a second of training by one process and by two (torchrun, gloo), each with one thread, in turn.

    python -m benchmarks.scaling [--rounds 3] [--steps 200] [--side 28]

Both train the default preset at the same global batch on the CPU. Start and end are taken out: a round's seconds
are those of a long training less those of a short one.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine, table
from components.step import read_sections, resolve_params
from components.train import train
from troika.datasets.contract import Split
from troika.datasets.writing import write_dataset

_SHORT = 20


def main() -> None:
    """Print one row for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=28)
    given = parser.parse_args()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = np.random.default_rng(0).integers(0, 256, (5000, given.side, given.side, 1), dtype=np.uint8)
        split = Split(images, np.arange(len(images)) % 10)
        held_out = Split(images[:1000], split.labels[:1000])
        write_dataset(
            home / "dataset", name="noise", source="benchmark", classes=tuple("0123456789"),
            splits={"train": split, "validation": held_out, "test": held_out},
        )  # fmt: skip
        for number in range(given.rounds):
            for processes in (1, 2) if number % 2 == 0 else (2, 1):
                seconds = [_train(home, processes, steps) for steps in (_SHORT, _SHORT + given.steps)]
                speeds[processes].append(given.steps / (seconds[1] - seconds[0]))
    batch = read_sections(Path("params.yaml"))["train"]["batch_size"]
    rows = []
    for processes, found in speeds.items():
        gains = [one / other for one, other in zip(found, speeds[1], strict=True)]
        images_a_second = [batch * speed for speed in found]
        rows.append(
            [
                str(processes),
                f"{statistics.median(images_a_second):,.0f}",
                f"{min(images_a_second):,.0f} to {max(images_a_second):,.0f}",
                f"{statistics.median(gains):.2f}",
                f"{statistics.median(gains) / processes:.0%}",
            ]
        )
    print(f"\n{describe_machine()}, global batch {batch}, {given.rounds} rounds\n")
    print(table(["processes", "images/s, median", "range", "gain", "efficiency"], rows))


def _train(home: Path, processes: int, steps: int) -> float:
    """Seconds of a whole training."""
    # Without variety, noise ends early; and its few sample grids are no part of this.
    changes = {"steps": steps, "processes": processes, "ticks": 1, "checkpoint_seconds": 1000}
    params = resolve_params(train, read_sections(Path("params.yaml"))["train"], changes)
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train(home / "dataset", home / f"checkpoint-{processes}-{steps}-{started}", home / "history.jsonl", params)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
