"""A whole `evaluate`, champion and self-test included: seconds and memory, on the digits and on MNIST.

    python -m benchmarks.evaluation [--rounds 3] [--mnist FOLDER]

Models are trained for a few steps only: judging a bad one takes as long as judging a good one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, table, tree_bytes
from components.export_model import export_model
from components.prepare_data import prepare_data
from components.step import Step, read_sections, resolve_params
from components.train import train
from components.train_evaluator import train_evaluator
from troika.releases.bundle import Bundle
from troika.releases.store import publish

_STEPS = 50


def main() -> None:
    """Prepare, judge in rounds, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's four IDX files")
    given = parser.parse_args()
    cases: list[tuple[str, dict[str, Any], int]] = [("digits 8 x 8, 20,000 samples", {}, 10)]
    if given.mnist is not None:
        cases.append(("MNIST 28 x 28, 10,000 samples", {"source": "idx", "path": str(given.mnist)}, 5))
    rows = []
    for name, source, batches in cases:
        with tempfile.TemporaryDirectory() as scratch:
            home = Path(scratch)
            _prepare(home, source)
            found = [_judge(home, batches) for _ in range(given.rounds)]
        rows.append([name, *(_span([one[key] for one in found]) for key in ("wall", "cpu", "megabytes"))])
    print(f"\n{describe_machine()}\n")
    print(table(["images", "wall s", "CPU s", "peak memory MB"], rows))


def _prepare(home: Path, source: dict[str, Any]) -> None:
    """Two models of a few steps; the first is published as the champion, the second is the candidate."""
    sections = read_sections(Path("params.yaml"))

    def params(step: Step, changes: dict[str, Any] | None = None) -> Any:
        return resolve_params(step, sections[step.__name__], changes or {})

    prepare_data(home / "dataset", home / "data.html", home / "refused.json", params(prepare_data, source))
    train_evaluator(home / "dataset", home / "evaluator.onnx", params(train_evaluator))
    for seed, bundle in enumerate(("champion", "bundle")):
        train(
            home / "dataset", home / "checkpoint", home / "history", params(train, {"steps": _STEPS, "seed": seed})
        )
        export_model(home / "checkpoint", home / bundle, params(export_model))
    opened = Bundle.open(home / "champion")
    verdict = {"decision": "promote", "bundle_digest": opened.digest, "reasons": []}
    published = asdict(publish(opened, verdict, home / "store"))
    found = {name: published[name] for name in ("model", "digest", "store")}
    (home / "champion.json").write_text(json.dumps({"environment": "local", "version": 1, **found}))


def _judge(home: Path, batches: int) -> dict[str, float]:
    paths = {
        "bundle": "bundle", "dataset": "dataset", "evaluator": "evaluator.onnx", "champion": "champion.json",
        "verdict": "verdict.json", "reference": "reference.npz", "report": "evaluation.html",
        "metrics": "metrics.json",
    }  # fmt: skip
    flags = [part for name, path in paths.items() for part in (f"--{name}", str(home / path))]
    changes = ["--set", f"samples.batches={batches}", "--set", f"samples.budget={batches}"]
    before, started = os.times(), time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "components.evaluate", *flags, *changes])
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    wall, after = time.monotonic() - started, os.times()
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"evaluate ended with status {status}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": cpu, "megabytes": peak[0] / 1e6}


def _span(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
