"""What limits a training step on one GPU: its arithmetic against the card's, its kernels, and the host.

    python -m benchmarks.gpu_limits [--steps 200]

For the default preset, at several sizes of images and networks: milliseconds a step, how long the GPU was busy in
it, kernels and their mean length, the arithmetic of all passes (PyTorch's table of operations: multiply and add
are two), and what share that is of the card's rate in large bfloat16 products, measured first. Every fourth step
has the penalty, so all means are over a multiple of four. Memory is the peak of PyTorch's tensors, beside what a
dry run expects. Random images, batches of 128 but where it says otherwise.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.engine import Training, dataset_of, noise, settings_of, training_of
from benchmarks.machine import describe_gpu, table
from troika.models.contract import Machine, Schedule
from troika.models.gan.needs import memory_of

_CASES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    # What, image side, batch, changes of the network.
    ("8x8", 8, 128, {}),
    ("28x28", 28, 128, {}),
    ("28x28, batch 1,024", 28, 1024, {}),
    ("64x64", 64, 128, {}),
    ("64x64, one residual block", 64, 128, {"residual_blocks": 1}),
    ("64x64, channels 64 to 1,024", 64, 128, {"channels": 64, "max_channels": 1024}),
    ("64x64, the same, batch 512", 64, 512, {"channels": 64, "max_channels": 1024}),
)
_MICROSECONDS = "self_device_time_total"


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="rounded up to a multiple of four")
    given = parser.parse_args()
    peak = _peak()
    rows = [_row(*case, -(-given.steps // 4) * 4, peak) for case in _CASES]
    print(f"\n{describe_gpu()}; bfloat16 products of 8,192 x 8,192: {peak / 1e12:.0f} TFLOP/s\n")
    header = ["r3gan", "compile", "images/s", "ms a step", "GPU busy", "kernels a step", "us a kernel"]
    print(
        table(
            [*header, "GFLOP a step", "TFLOP/s", "of the card's", "peak MiB", "expected"],
            [row for pair in rows for row in pair],
        )
    )


def _row(name: str, side: int, batch: int, changes: dict[str, Any], steps: int, peak: float) -> list[list[str]]:
    """One line with CUDA graphs, one without."""
    settings = settings_of("r3gan")
    settings = settings.model_copy(update={"network": settings.network.model_copy(update=changes)})
    schedule = Schedule(steps=10**6, batch_size=batch, seed=0, checkpoint_seconds=1e9, ticks=1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        dataset = dataset_of(noise(2048, side), 10, Path(scratch) / "dataset")
        for compiled in ("auto", "off"):
            machine = Machine("cuda", compile=compiled)
            torch.cuda.reset_peak_memory_stats()
            with training_of("pytorch", "r3gan", settings, dataset, schedule, machine) as trained:
                flops = _flops(trained) if compiled == "off" else 0.0
                trained.steps(100)
                started = time.perf_counter()
                trained.steps(steps)
                seconds = (time.perf_counter() - started) / steps
                busy, kernels = _kernels(trained)
                needs = memory_of(
                    settings, trained.spec, schedule, processes=1, pass_bytes=2, recorded=compiled == "auto"
                )
            peak_mib = torch.cuda.max_memory_allocated() / 2**20
            expected = (sum(needs.values()) + dataset.train.images.nbytes) / 2**20
            rows.append((compiled, seconds, busy, kernels, flops, peak_mib, expected))
    flops = rows[1][4]
    return [
        [
            name,
            compiled,
            f"{batch / seconds:,.0f}",
            f"{1000 * seconds:.2f}",
            f"{busy / seconds:.0%}",
            f"{kernels:.0f}",
            f"{1e6 * busy / kernels:.1f}",
            f"{flops / 1e9:.1f}",
            f"{flops / seconds / 1e12:.1f}",
            f"{flops / seconds / peak:.1%}",
            f"{used:.0f}",
            f"{expected:.0f}",
        ]
        for compiled, seconds, busy, kernels, _, used, expected in rows
    ]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what PyTorch's own table says of each operation; FlopCounterMode itself refuses double backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def _flops(trained: Training) -> float:
    """Of a step, on average; only kernel by kernel can they be counted."""
    with _Counter() as counter:
        trained.steps(4)
    return float(counter.total) / 4


def _kernels(trained: Training) -> tuple[float, float]:
    """Of a step, on average: seconds of the GPU, and how many kernels."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        trained.steps(20)
    events = [event for event in seen.key_averages() if getattr(event, _MICROSECONDS) > 0]
    return sum(getattr(one, _MICROSECONDS) for one in events) / 1e6 / 20, sum(one.count for one in events) / 20


def _peak() -> float:
    """Floating-point operations in a second, of large bfloat16 products on random numbers."""
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            one @ other
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / 10)
    return 2 * 8192**3 / statistics.median(times)


if __name__ == "__main__":
    main()
