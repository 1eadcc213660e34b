"""Images in a second: the article's TensorFlow program against both backends on its network, batch and data.

Each contender is a process of its own with the same number of threads; they take turns, since a shared machine is
not equally fast all the time, and a round's ratio is that of neighbours in time. `floor` does nothing but the
matrix products that a step needs: no framework can be faster with them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, table

CONTENDERS = ("article", "pytorch", "tensorflow", "tensorflow with XLA", "floor")
BATCH, IMAGES = 128, 12_800
GENERATOR, DISCRIMINATOR = (100, 256, 512, 1024, 784), (784, 1024, 512, 1)
_WARM_UP_STEPS = 5


def main() -> None:
    """Print one row per contender: images in a second, and the median ratio to the article's program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contender in each round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        serve(given.work, given.threads)
        return
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    processes = {name: _start(name, given.threads) for name in CONTENDERS}
    for number in range(given.rounds):
        for name in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
            speeds[name].append(_ask(processes[name], given.seconds))
    for process in processes.values():
        process.communicate("")
    print(f"\n{describe_machine()}, {given.threads} threads\n")
    rows = []
    for name, found in speeds.items():
        to_article = [one / other for one, other in zip(found, speeds["article"], strict=True)]
        to_floor = [one / other for one, other in zip(found, speeds["floor"], strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(found):,.0f}",
                f"{min(found):,.0f} to {max(found):,.0f}",
                f"{statistics.median(to_article):.2f}",
                f"{statistics.median(to_floor):.0%}",
            ]
        )
    print(table(["contender", "images/s, median", "range", "over the article's", "of the floor"], rows))


def _start(name: str, threads: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.article_speed", "--work", name, "--threads", str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", name
    return process


def _ask(process: "subprocess.Popen[str]", seconds: float) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def serve(name: str, threads: int) -> None:
    """Say `ready`, then for every line with a number of seconds, the images in a second over that time."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 1), dtype=np.uint8)
    with _contender(name, images, threads) as steps:
        steps(_WARM_UP_STEPS)
        print("ready", flush=True)
        for line in sys.stdin:
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < float(line):
                steps(10)
                done += 10
            print(done * BATCH / (time.perf_counter() - started), flush=True)


@contextmanager
def _contender(name: str, images: np.ndarray[Any, Any], threads: int) -> Iterator[Callable[[int], None]]:
    """A function that does so many steps, and waits for them."""
    if name == "article":
        from benchmarks.article_tensorflow import ArticleProgram

        yield ArticleProgram(images).steps
    elif name == "floor":
        yield _floor(threads)
    else:
        framework, _, compiled = name.partition(" ")
        with (
            tempfile.TemporaryDirectory() as scratch,
            _ours(framework, bool(compiled), images, Path(scratch)) as steps,
        ):
            yield steps


@contextmanager
def _ours(
    framework: str, compiled: bool, images: np.ndarray[Any, Any], folder: Path
) -> Iterator[Callable[[int], None]]:
    from components.step import read_sections
    from troika.datasets.contract import Split
    from troika.datasets.writing import write_dataset
    from troika.models.contract import Machine, Schedule
    from troika.models.gan.batches import Order, latents_of_step
    from troika.models.gan.model import GAN
    from troika.models.gan.schedules import hyper_at
    from troika.models.gan.settings import GANSettings
    from troika.models.registry import model_class

    split = Split(images, np.zeros(len(images), np.int64))
    small = Split(images[:10], split.labels[:10])
    dataset = write_dataset(
        folder / "dataset", name="noise", source="benchmark", classes=("a",),
        splits={"train": split, "validation": small, "test": small},
    )  # fmt: skip
    settings = GANSettings.parse(read_sections(Path("params.yaml"))["train"]["presets"]["article"], "article")
    schedule = Schedule(steps=10**6, batch_size=BATCH, seed=0, checkpoint_seconds=1e9, ticks=1)
    kind = model_class("gan", framework)
    assert issubclass(kind, GAN)
    spec = kind.describe(dataset, "article", settings)
    machine = Machine(device="cpu", compile="on" if compiled else "off")
    with kind.open_backend(dataset, spec, settings, schedule, machine) as backend:
        order, done = Order(len(images), BATCH, 0), 0

        def steps(count: int) -> None:
            nonlocal done
            for number in range(done, done + count):
                latents = latents_of_step(0, number, BATCH, settings.latent_size)
                backend.step(number, order(number), latents, hyper_at(settings, schedule, number))
            done += count
            backend.figures()  # all of it is done when these are known

        yield steps


def _floor(threads: int) -> Callable[[int], None]:
    """Forward passes and gradients of both networks as bare matrix products; those of inputs only where needed."""
    import torch

    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(0)

    def layer(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, ...]:
        shapes = ((rows, inputs), (inputs, outputs), (rows, outputs))
        return tuple(torch.randn(shape, generator=random) for shape in shapes)

    def layers(rows: int, widths: tuple[int, ...]) -> list[tuple[torch.Tensor, ...]]:
        return [layer(rows, *pair) for pair in pairwise(widths)]

    passes = [
        # Layers, whether weights need gradients, and from which layer on inputs do.
        (layers(BATCH, GENERATOR), True, 1),
        (layers(2 * BATCH, DISCRIMINATOR), True, 1),
        (layers(BATCH, DISCRIMINATOR), False, 0),
    ]

    @torch.inference_mode()
    def steps(count: int) -> None:
        for _ in range(count):
            for network, weights, first in passes:
                for number, (x, w, g) in enumerate(network):
                    x @ w
                    if weights:
                        x.T @ g
                    if number >= first:
                        g @ w.T

    return steps


if __name__ == "__main__":
    main()
