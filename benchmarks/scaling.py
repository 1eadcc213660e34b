"""Images in a second of training by one process and by two (torchrun, gloo), each with one thread, in turn.

    python -m benchmarks.scaling [--rounds 3] [--steps 200] [--side 28]

Both train the default preset at the same global batch on the CPU. Start and end are taken out: a round's seconds
are those of a long training less those of a short one.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.engine import dataset_of, noise
from benchmarks.machine import describe_machine, table
from components.step import read_sections

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
        dataset_of(noise(5000, given.side), 10, home / "dataset")
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
    out = home / f"{processes}-{steps}-{time.monotonic()}"
    command = [sys.executable, "-m", "components.train", "--dataset", str(home / "dataset")]
    for name in ("checkpoint", "history"):
        command += [f"--{name}", str(out / name)]
    # One sample grid, at the end: noise has no variety that a second could miss.
    for change in (f"steps={steps}", f"processes={processes}", "ticks=1", "checkpoint_seconds=1000", "device=cpu"):
        command += ["--set", change]
    started = time.monotonic()
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stdout + finished.stderr)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
