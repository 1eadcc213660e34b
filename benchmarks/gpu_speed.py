"""On one GPU, images in a second: a plain public-style DCGAN loop against Troika's, with and without CUDA graphs.

    python -m benchmarks.gpu_speed [--rounds 7] [--seconds 5]

`plain` is the loop of benchmarks.dcgan_speed, its images loaded by two processes into pinned memory, in float32
(convolutions in TF32, PyTorch's default). `kernel by kernel` is Troika's step without CUDA graphs (compile: off);
bfloat16 passes but where it says float32. `passes alone` are forward and backward passes of the default preset on
one batch, as CUDA graphs: no data, optimiser, moving average or figures. 28 x 28 grey, ten classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.dcgan_loops import BATCH, CLASSES, IMAGES, plain_loop, recorded_passes
from benchmarks.engine import engine, noise
from benchmarks.machine import describe_gpu
from benchmarks.turns import Steps, take_turns
from troika.models.contract import Machine

_PLAIN, _PASSES = "plain", "r3gan, passes alone"
_MACHINES = {
    "": Machine("cuda"),
    "kernel by kernel": Machine("cuda", compile="off"),
    "float32": Machine("cuda", "float32"),
}
_PRESETS = ("dcgan", "r3gan")
CONTENDERS = (
    _PLAIN,
    *(f"{preset}{', ' if kind else ''}{kind}" for preset in _PRESETS for kind in _MACHINES),
    _PASSES,
)


def main() -> None:
    """Print one row per contender."""
    columns = [
        ("over plain", _PLAIN, CONTENDERS[:4]),
        ("of the passes", _PASSES, CONTENDERS[4:]),
    ]
    take_turns("benchmarks.gpu_speed", __doc__, CONTENDERS, _contender, BATCH, columns, describe_gpu, at_once=50)


@contextmanager
def _contender(name: str, threads: int) -> Iterator[Steps]:
    torch.set_num_threads(threads)
    if name == _PLAIN:
        yield plain_loop("cuda", workers=2)
    elif name == _PASSES:
        yield recorded_passes()
    else:
        preset, _, kind = name.partition(", ")
        with engine("pytorch", preset, noise(IMAGES, 28), CLASSES, BATCH, _MACHINES[kind]) as steps:
            yield steps


if __name__ == "__main__":
    main()
