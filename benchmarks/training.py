"""The default preset against the article's MLP GAN at equal training time, judged by the gate's own figures.

For every seed: the default preset with its steps, then the article's for as long (steps from its measured speed).
Both are exported and judged as ONNX graphs, like any candidate for release.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, table
from components.evaluate import evaluate
from components.export_model import export_model
from components.prepare_data import prepare_data
from components.step import read_sections, resolve_params
from components.train import train
from components.train_evaluator import train_evaluator

FIGURES = ("label_agreement", "frechet_distance", "frechet_distance_to_train", "class_balance")


def main() -> None:
    """Train and judge; print one row per preset and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    sections = read_sections(Path("params.yaml"))
    rows: list[list[str]] = []
    ratios: list[float] = []
    floor = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        params = resolve_params(prepare_data, sections["prepare_data"])
        prepare_data(home / "dataset", home / "data.html", home / "refused.json", params)
        # No champion: each is held against the limits.
        (home / "champion.json").write_text("{}")
        train_evaluator(
            home / "dataset", home / "evaluator.onnx", resolve_params(train_evaluator, sections["train_evaluator"])
        )
        _, speed = _train(home, sections, {"preset": "article", "steps": 500})
        for seed in range(given.seeds):
            chosen = {"preset": sections["train"]["preset"], "seed": seed}
            seconds, _ = _train(home, sections, chosen)
            default = _judge(home, sections)
            rows.append(_row(chosen, sections["train"]["steps"], seconds, default))
            steps = round(seconds * speed)
            chosen = {"preset": "article", "seed": seed, "steps": steps}
            seconds, found = _train(home, sections, chosen)
            speed = max(speed, found)  # the machine may have been slow at first
            article = _judge(home, sections)
            rows.append(_row(chosen, steps, seconds, article))
            ratios.append(article["frechet_distance"]["value"] / default["frechet_distance"]["value"])
            floor = default["frechet_distance"]["floor"]
    print(f"\n{describe_machine()}\n")
    print(table(["preset", "seed", "steps", "seconds", *FIGURES, "verdict"], rows))
    print(f"\nFréchet distance, article over default: median {statistics.median(ratios):.2f}", end="")
    print(f" ({min(ratios):.2f} to {max(ratios):.2f}); training images against held-out ones: {floor:.2f}")


def _train(home: Path, sections: dict[str, Any], changes: dict[str, Any]) -> tuple[float, float]:
    """Wall seconds, and steps in a second."""
    params = resolve_params(train, sections["train"], changes)
    started = time.monotonic()
    train(home / "dataset", home / "checkpoint", home / "history.jsonl", params)
    seconds = time.monotonic() - started
    return seconds, params.steps / seconds


def _judge(home: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Figure name -> figure, and the decision under `decision`."""
    export_model(home / "checkpoint", home / "bundle", resolve_params(export_model, sections["export_model"]))
    verdict = home / "verdict.json"
    params = resolve_params(evaluate, sections["evaluate"])
    evaluate(
        home / "bundle",
        home / "dataset",
        home / "evaluator.onnx",
        home / "champion.json",
        verdict,
        home / "reference.npz",
        home / "report.html",
        home / "metrics.json",
        params,
    )
    record = json.loads(verdict.read_text())
    return {"decision": record["decision"], **{m["name"]: m for m in record["measures"]}}


def _row(chosen: dict[str, Any], steps: int, seconds: float, judged: dict[str, Any]) -> list[str]:
    figures = ["-" if judged[name]["value"] is None else f"{judged[name]['value']:.3f}" for name in FIGURES]
    return [chosen["preset"], str(chosen["seed"]), f"{steps:,}", f"{seconds:.0f}", *figures, judged["decision"]]


if __name__ == "__main__":
    main()
