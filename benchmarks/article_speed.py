"""Images in a second: the article's TensorFlow program against both backends on its network, batch and data.

    python -m benchmarks.article_speed [--rounds 7] [--seconds 5] [--threads 2]

`floor` does nothing but the matrix products of the program: forward, back for the discriminator, back for the
generator. No framework can be faster with these; Troika's backends do a few less, as both gradients share one way
back through the discriminator (updates: simultaneous).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from benchmarks.engine import engine, noise
from benchmarks.turns import Steps, take_turns
from troika.models.contract import Machine

CONTENDERS = ("article", "pytorch", "tensorflow", "tensorflow with XLA", "floor")
BATCH, IMAGES = 128, 12_800
GENERATOR, DISCRIMINATOR = (100, 256, 512, 1024, 784), (784, 1024, 512, 1)


def main() -> None:
    """Print one row per contender."""
    columns = [("over the article's", "article", CONTENDERS), ("of the floor", "floor", CONTENDERS)]
    take_turns("benchmarks.article_speed", __doc__, CONTENDERS, _contender, BATCH, columns)


@contextmanager
def _contender(name: str, threads: int) -> Iterator[Steps]:
    if name == "article":
        from benchmarks.article_tensorflow import ArticleProgram

        yield ArticleProgram(noise(IMAGES, 28)).steps
    elif name == "floor":
        yield _floor(threads)
    else:
        framework, _, compiled = name.partition(" ")
        machine = Machine(device="cpu", compile="on" if compiled else "off")
        with engine(framework, "article", noise(IMAGES, 28), 1, BATCH, machine) as steps:
            yield steps


def _floor(threads: int) -> Steps:
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
        # Layers, whether forward and back to weights, and from which one on back to inputs.
        (layers(BATCH, GENERATOR), True, 1),
        (layers(2 * BATCH, DISCRIMINATOR), True, 1),
        (layers(BATCH, DISCRIMINATOR), False, 0),
    ]

    @torch.inference_mode()
    def steps(count: int) -> None:
        for _ in range(count):
            for network, whole, first in passes:
                for number, (x, w, g) in enumerate(network):
                    if whole:
                        x @ w
                        x.T @ g
                    if number >= first:
                        g @ w.T

    return steps


if __name__ == "__main__":
    main()
