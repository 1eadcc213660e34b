"""What torch.compile would take off PyTorch's step on this machine, and when it would have paid for itself.

The networks' passes are compiled by Inductor (it needs a C++ compiler); losses, Adam and the average stay as they
are. Steps without a gradient penalty only, and without dropout: the best case, since PyTorch cannot compile a
penalty's gradient of a gradient that way. Both take turns in one process with one thread; processor time, the
compiler's processes included.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, table
from components.step import read_sections
from troika.datasets.contract import Dataset, Split
from troika.datasets.writing import write_dataset
from troika.models.contract import Machine, Schedule
from troika.models.gan.batches import Order, latents_of_step
from troika.models.gan.pytorch_backend import PyTorchBackend
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.gan.schedules import hyper_at
from troika.models.gan.settings import GANSettings
from troika.params import merge

BATCH = 128
CASES = (("r3gan", (8, 8, 1)), ("article", (28, 28, 1)), ("r3gan", (28, 28, 1)))
_PLAIN: dict[str, dict[str, Any]] = {
    "r3gan": {"penalty": "none", "penalty_gamma_start": 0.0, "penalty_gamma_end": 0.0},
    "article": {"network": {"dropout": 0.0}},
}


def main() -> None:
    """Print one row per preset and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", type=int, default=len(CASES), help="so many of the rows")
    parser.add_argument("--seconds", type=float, default=2.0, help="of processor time, of each in each round")
    given = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else helpers compile, whose time is not ours
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for preset, shape in CASES[: given.cases]:
            rows.append(_measure(preset, shape, given.rounds, given.seconds))
            print(rows[-1], flush=True)
    print(f"\n{describe_machine()}, 1 thread, processor time\n")
    header = ["preset", "images", "ms a step", "compiled", "speed-up", "compiling, s", "pays after"]
    print(table(header, rows))


def _measure(preset: str, shape: tuple[int, int, int], rounds: int, seconds: float) -> list[str]:
    sections = read_sections(Path("params.yaml"))
    settings = GANSettings.parse(merge(sections["train"]["presets"][preset], _PLAIN[preset]), preset)
    schedule = Schedule(steps=10**6, batch_size=BATCH, seed=0, checkpoint_seconds=1e9, ticks=1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as opened:
        dataset = _noise(Path(scratch), shape)
        spec = PyTorchGAN.describe(dataset, preset, settings)
        stages = [
            opened.enter_context(PyTorchGAN.open_backend(dataset, spec, settings, schedule, Machine(device="cpu")))
            for _ in ("eager", "compiled")
        ]
        eager, compiled = (stage for stage in stages if isinstance(stage, PyTorchBackend))
        for network in (compiled._generator, compiled._discriminator):
            network.body.compile()
        order = Order(len(dataset.train), BATCH, 0)

        def steps(backend: PyTorchBackend, count: int) -> float:
            started = _processor_seconds()
            for number in range(count):
                hyper = hyper_at(settings, schedule, number)
                latents = latents_of_step(0, number, BATCH, settings.latent_size)
                backend.step(number, order(number), latents, hyper)
            return _processor_seconds() - started

        first = steps(eager, 8)
        compiling = steps(compiled, 8) - first
        count = max(5, round(seconds / (first / 8)))
        pairs = []
        for number in range(rounds):
            turns = (eager, compiled) if number % 2 == 0 else (compiled, eager)
            found = {backend: steps(backend, count) / count for backend in turns}
            pairs.append((found[eager], found[compiled]))
    before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
    pays = f"{compiling / (before - after):,.0f} steps" if after < before else "never"
    gain = statistics.median(one / other for one, other in pairs)
    size = "x".join(map(str, shape))
    return [preset, size, f"{1e3 * before:.1f}", f"{1e3 * after:.1f}", f"{gain:.2f}", f"{compiling:.0f}", pays]


def _processor_seconds() -> float:
    return sum(os.times()[:4])


def _noise(folder: Path, shape: tuple[int, int, int]) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (2000, *shape), dtype=np.uint8)
    split = Split(images, np.arange(2000) % 10)
    return write_dataset(
        folder / "dataset", name="noise", source="benchmark", classes=tuple("0123456789"),
        splits={"train": split, "validation": split, "test": split},
    )  # fmt: skip


if __name__ == "__main__":
    main()
