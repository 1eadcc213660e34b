"""After how many seconds of training are the images good? For each preset and framework, with several seeds.

    python -m benchmarks.time_to_quality digits [--seeds 3] [--at-once 2] [--presets r3gan dcgan article]
        [--frameworks pytorch tensorflow] [--steps r3gan=6000] [--most-seconds 120] [--device cpu]
        [--json FILE] [--kept FOLDER]
    python -m benchmarks.time_to_quality mnist --mnist FOLDER ...

Good is a Fréchet distance below 3, 2 and 1 (MNIST: 5, 2 and 1), of the features of an evaluator that is trained
first and judges all.

Seconds are CPU seconds, as the machine may be shared: those that the process has spent on training steps and on
opening the backend, so TensorFlow's compiling is among them (XLA compiles on all cores, and all count); imports,
checking the dataset and looks are not. Every training is a process of its own with one thread, `--at-once` of
them side by side. Wall seconds, noted too, are of the same work, waiting included. Images in a second are over
all of it. With `--device cuda` all seconds are by the clock, and at once goes one training.

A preset whose settings change over the steps (r3gan) trains all of its steps, those of params.yaml or, on MNIST,
3,000: cut off, it would be another training. The others end after `--most-seconds`, unless `--steps` says after
how many steps. The step is the product's, compile auto (XLA with TensorFlow from 2,000 steps on, or where steps
are not limited; CUDA graphs with PyTorch on a GPU); of its loop the checkpoints, the watch for collapse and the
ticks are left out.

A look comes whenever the training's seconds have grown by 15 %, at least 0.5 s and ten steps after the one before
(on a GPU 0.1 s and 50 steps), and at the end; it draws 2,000 images of the moving average (MNIST: 5,000), always
of the same latents, labels evenly over the classes. Seconds are those of the first look below a threshold, so up
to about 15 % late.
The distance is to the training images: held-out ones have a distance of their own to these, on the digits above
1, that no training is to blame for. It includes the bias of so few samples; what so many training images have,
drawn at random with replacement, is printed above the table, and is about as low as a generator can come. That
one is near its training images says nothing of memorisation.

With `--kept`, dataset and evaluator stay in that folder for the next run. With `--json`, a killed run goes on: all
looks of each finished training are kept there, and it is not run again.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.engine import settings_of
from benchmarks.machine import describe_gpu, describe_machine, table
from benchmarks.quality_looks import Run, train_and_look, write_moments
from benchmarks.quality_rows import Row, cells, header, line
from components.prepare_data import prepare_data
from components.step import read_sections, resolve_params
from components.train_evaluator import train_evaluator
from troika.datasets.cores import usable_cores
from troika.folders import write_atomic
from troika.quality.evaluator import Evaluator

_THRESHOLDS = {"digits": (3, 2, 1), "mnist": (5, 2, 1)}
_MOST_SECONDS = {"digits": 120.0, "mnist": 240.0}
_MNIST_STEPS = 3000
_SAMPLES = {"digits": 2000, "mnist": 5000}
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}  # fmt: skip


def main() -> None:
    """Train and look; print a table. Or be one training."""
    given = _arguments()
    if given.one:
        train_and_look(Run(**json.loads(given.one)), given.folder, given.found)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # trainings are ended, too
    rows: list[Row] = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        home = given.kept or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        evaluator = _prepare(home, given)
        runs = list(_runs(given, evaluator))
        for row in _train_all([run for run in runs if _row_of(run, rows) is None], given.at_once, home):
            rows.append(row)
            if given.json:
                write_atomic(given.json, json.dumps(rows))
            print(line(row, _THRESHOLDS[given.data]), file=sys.stderr, flush=True)
        with np.load(home / "moments.npz") as kept:
            drawn, held_out, number = (float(kept[name]) for name in ("drawn", "held_out", "held_out_number"))
    machine = describe_gpu() if given.device == "cuda" else describe_machine()
    threads = "" if given.device == "cuda" else ", one thread a training"
    print(f"\n{machine}{threads}, trainings at once: {given.at_once}\n")
    print(
        f"Fréchet distance to all training images: {_SAMPLES[given.data]:,} of them drawn at random {drawn:.2f}, ",
        end="",
    )
    print(f"all {number:,.0f} held-out images {held_out:.2f}\n")
    print(
        table(
            header(_THRESHOLDS[given.data]),
            [cells(group, _THRESHOLDS[given.data]) for group in _groups(runs, rows)],
        )
    )


def _arguments() -> argparse.Namespace:
    sections = read_sections(Path("params.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(_THRESHOLDS))
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's four IDX files")
    parser.add_argument("--seeds", type=_count, default=3)
    parser.add_argument("--at-once", type=_count, help="trainings; default: one for each core, or for the GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    presets = list(sections["train"]["presets"])
    parser.add_argument("--presets", nargs="+", choices=presets, default=presets)
    frameworks = ["pytorch", "tensorflow"]
    parser.add_argument("--frameworks", nargs="+", choices=frameworks, default=frameworks)
    parser.add_argument(
        "--steps", nargs="+", type=_steps_of_preset, default=[], metavar="PRESET=N", help="end after N steps"
    )
    parser.add_argument("--most-seconds", type=float, help="default: 120 for digits, 240 for mnist")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="for dataset and evaluator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps all looks")
    for name in ("--one", "--folder", "--found"):
        parser.add_argument(name, type=str if name == "--one" else Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.data == "mnist" and not (given.mnist or given.one):
        parser.error("mnist needs --mnist FOLDER")
    given.at_once = given.at_once or (usable_cores() if given.device == "cpu" else 1)
    given.train = sections["train"]
    given.steps = dict(given.steps)
    if strangers := sorted(set(given.steps) - set(presets)):
        parser.error(f"--steps: there is no preset {', '.join(strangers)}")
    return given


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _steps_of_preset(text: str) -> tuple[str, int]:
    preset, _, steps = text.partition("=")
    return preset, _count(steps)


def _prepare(home: Path, given: argparse.Namespace) -> str:
    """Dataset, evaluator and the training images' moments, if they are not there; the evaluator's digest."""
    sections = read_sections(Path("params.yaml"))
    made_of = json.dumps([given.data, _SAMPLES, sections["prepare_data"], sections["train_evaluator"]])
    kept = home / "made_of.json"
    if kept.exists():
        if kept.read_text() != made_of:
            sys.exit(f"--kept: {home} was kept for other data or parameters; give another folder")
        return Evaluator.open(home / "evaluator.onnx").digest
    if any(home.iterdir()):
        sys.exit(f"--kept: {home} is neither empty nor finished; give another folder, or remove it")
    source = {"source": "auto", "path": str(given.mnist)} if given.data == "mnist" else {}
    params = resolve_params(prepare_data, sections["prepare_data"], source)
    prepare_data(home / "dataset", home / "data.html", home / "refused.json", params)
    params = resolve_params(train_evaluator, sections["train_evaluator"])
    digest = train_evaluator(home / "dataset", home / "evaluator.onnx", params)
    write_moments(home, _SAMPLES[given.data])
    write_atomic(kept, made_of)  # last: a folder without it is not finished
    return digest


def _runs(given: argparse.Namespace, evaluator: str) -> Iterator[Run]:
    """Seed after seed, so that a run that is cut off has all contenders."""
    samples = _SAMPLES[given.data]
    for seed, preset, framework in itertools.product(range(given.seeds), given.presets, given.frameworks):
        steps = given.steps.get(preset)
        if steps is None and _changes_over_steps(preset):
            steps = _MNIST_STEPS if given.data == "mnist" else given.train["steps"]
        most = None if steps else given.most_seconds or _MOST_SECONDS[given.data]
        settings = settings_of(preset).model_dump_json()
        batch = given.train["batch_size"]
        yield Run(
            given.data, preset, framework, given.device, seed, batch, steps, most, evaluator, samples, settings
        )


def _changes_over_steps(preset: str) -> bool:
    settings = settings_of(preset)
    names = ("learning_rate", "beta2", "penalty_gamma")
    return any(getattr(settings, f"{name}_start") != getattr(settings, f"{name}_end") for name in names)


def _row_of(run: Run, rows: list[Row]) -> Row | None:
    key = asdict(run)
    return next((row for row in rows if {name: row.get(name) for name in key} == key), None)


def _train_all(runs: list[Run], at_once: int, home: Path) -> Iterator[Row]:
    """Rows, as trainings end; if one fails, all end with its words."""
    waiting, going = list(enumerate(runs)), dict[int, tuple[Run, "subprocess.Popen[bytes]"]]()
    try:
        while waiting or going:
            while waiting and len(going) < at_once:
                number, run = waiting.pop(0)
                going[number] = run, _start(number, run, home)
            time.sleep(0.2)
            for number in [number for number, (_, process) in going.items() if process.poll() is not None]:
                run, process = going.pop(number)
                if process.returncode:
                    words = (home / f"{number}.log").read_text(errors="replace")
                    sys.exit(f"{words}\n{run.preset} with {run.framework}, seed {run.seed}, failed")
                yield {**asdict(run), "looks": json.loads((home / f"{number}.json").read_text())}
    finally:
        for _, process in going.values():
            process.kill()
            process.wait()


def _start(number: int, run: Run, home: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.time_to_quality", run.data, "--one", json.dumps(asdict(run))]
    command += ["--folder", str(home), "--found", str(home / f"{number}.json")]
    with (home / f"{number}.log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **(_ONE_THREAD if run.device == "cpu" else {})}
        )


def _groups(runs: list[Run], rows: list[Row]) -> Iterator[list[Row]]:
    """Rows of trainings that differ in their seed alone."""
    for pair in dict.fromkeys((run.preset, run.framework) for run in runs):
        found = (_row_of(run, rows) for run in runs if (run.preset, run.framework) == pair)
        yield [row for row in found if row is not None]


if __name__ == "__main__":
    main()
