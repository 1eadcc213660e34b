"""Images in a second: a plain public-style DCGAN loop against Troika's, and how near that is to its passes alone.

    python -m benchmarks.dcgan_speed [--rounds 7] [--seconds 5] [--threads 2]

`plain` is the loop of public DCGAN tutorials with the network of the preset `dcgan`: a DataLoader that turns one
image after another into floats, float32 in PyTorch's default layout, two backward passes for the discriminator, a
discriminator that gathers gradients in the generator's step too, torch.optim.Adam, losses read at every step.
`r3gan` is the default preset; `r3gan, passes alone` does its forward and backward passes on the same batch again
and again: no data, optimiser, moving average or figures. 28 x 28 grey, ten classes, on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.dcgan_loops import BATCH, CLASSES, IMAGES, passes_alone, plain_loop
from benchmarks.engine import engine, noise
from benchmarks.turns import Steps, take_turns
from troika.models.contract import Machine

CONTENDERS = ("plain", "dcgan", "r3gan", "r3gan, passes alone")


def main() -> None:
    """Print one row per contender."""
    columns = [("over plain", "plain", CONTENDERS[:2]), ("of the passes", CONTENDERS[3], CONTENDERS[2:])]
    take_turns("benchmarks.dcgan_speed", __doc__, CONTENDERS, _contender, BATCH, columns)


@contextmanager
def _contender(name: str, threads: int) -> Iterator[Steps]:
    if name == "plain":
        torch.set_num_threads(threads)
        yield plain_loop("cpu", workers=0)
    elif name == "r3gan, passes alone":
        torch.set_num_threads(threads)
        yield passes_alone()
    else:
        with engine("pytorch", name, noise(IMAGES, 28), CLASSES, BATCH, Machine(device="cpu")) as steps:
            yield steps


if __name__ == "__main__":
    main()
