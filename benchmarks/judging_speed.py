"""Troika's measures against torch-fidelity, torchmetrics and prdc, on the same features and one thread.

Each runs in a process of its own, in turn, and again; CPU seconds without imports (the machine may be shared), and
how much memory was needed beyond the features themselves. All figures must agree within 1e-4, or it stops.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks import judging_peers as peers
from benchmarks.machine import describe_machine, table

Features = NDArray[np.float32]
_K = 5
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _frechet(fake: Features, real: Features) -> list[float]:
    from troika.quality.measures import frechet_distance

    return [frechet_distance(fake, real)]


def _kernel(fake: Features, real: Features) -> list[float]:
    from troika.quality.measures import kernel_distance

    return [kernel_distance(fake, real)]


def _neighbours(fake: Features, real: Features) -> list[float]:
    from troika.quality.neighbours import neighbourhood

    found = neighbourhood(fake, real, _K)
    return [found.precision, found.recall, found.density, found.coverage]


def _prdc(fake: Features, real: Features) -> list[float]:
    found = peers.prdc_neighbourhood(fake, real, _K)
    return [found[name] for name in ("precision", "recall", "density", "coverage")]


MEASURES: dict[str, dict[str, Callable[[Features, Features], list[float]]]] = {
    "Fréchet distance": {
        "troika": _frechet,
        "torch-fidelity": lambda fake, real: [peers.fidelity_frechet(fake, real)],
        "torchmetrics": lambda fake, real: [peers.torchmetrics_frechet(fake, real)],
    },
    "kernel distance": {
        "troika": _kernel,
        "torch-fidelity": lambda fake, real: [peers.fidelity_kernel(fake, real)],
        "torchmetrics": lambda fake, real: [peers.torchmetrics_kernel(fake, real)],
    },
    "precision, recall": {
        "troika": _neighbours,  # density and coverage too
        "torch-fidelity": lambda fake, real: list(peers.fidelity_precision_recall(fake, real, _K)),
        "prdc": _prdc,  # density and coverage too
    },
}


def features(rows: int, dimensions: int) -> tuple[Features, Features]:
    """Generated and real, as a rectified layer gives them."""
    rng = np.random.default_rng(dimensions)
    mixed = (rng.normal(size=(min(dimensions, 64), dimensions)) / 8).astype(np.float32)

    def some(shift: float) -> Features:
        hidden = rng.normal(size=(rows, len(mixed))).astype(np.float32) + np.float32(shift)
        noise = rng.normal(size=(rows, dimensions)).astype(np.float32) / 8
        return np.maximum(hidden @ mixed + noise, 0).astype(np.float32)

    return some(0.1), some(0)


def _run(name: str, judge: str, rows: int, dimensions: int) -> tuple[list[float], float, float]:
    """Figures, CPU seconds, MB: in a process of its own."""
    if judge != "troika":
        import torch

        torch.set_num_threads(1)
    measure = MEASURES[name][judge]
    measure(*features(64, 8))  # imports
    fake, real = features(rows, dimensions)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = measure(fake, real)
    seconds = time.process_time() - start
    return found, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print a table for each number of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="on each side")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    print(f"{describe_machine()}; one thread; {given.rows} x {given.rows} rows, {given.repeats} times each")
    for dimensions in given.dimensions:
        print(f"\n{dimensions} features\n\n{_compare(given.rows, dimensions, given.repeats)}", flush=True)


def _compare(rows: int, dimensions: int, repeats: int) -> str:
    context = multiprocessing.get_context("spawn")
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], float] = {}
    for _ in range(repeats):
        for name, judges in MEASURES.items():
            figures = []
            for judge in judges:
                with context.Pool(1) as process:
                    found, took, more = process.apply(_run, (name, judge, rows, dimensions))
                    process.close()
                    process.join()
                seconds.setdefault((name, judge), []).append(took)
                memory[name, judge] = max(more, memory.get((name, judge), 0.0))
                figures.append(found)
            for theirs in figures[1:]:
                for one, other in zip(figures[0], theirs, strict=False):
                    if abs(one - other) > 1e-4 * max(1, abs(one)):
                        raise SystemExit(f"{name}: {figures} do not agree")
    table_rows = []
    for (name, judge), times in seconds.items():
        ratio = statistics.median(t / ours for t, ours in zip(times, seconds[name, "troika"], strict=True))
        shown = "" if judge == "troika" else f"{ratio:.1f}"
        table_rows.append([name, judge, f"{statistics.median(times):.2f}", shown, f"{memory[name, judge]:.0f}"])
    return table(["measure", "judge", "CPU seconds", "times Troika's", "MB more"], table_rows)


if __name__ == "__main__":
    main()
