"""How many processor threads PyTorch may use here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from troika.errors import ParameterError


@contextmanager
def few_threads() -> Iterator[None]:
    """Inside the block PyTorch uses `cpu_threads()` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(cpu_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_threads() -> int:
    """One, or what OMP_NUM_THREADS says.

    Not PyTorch's own choice, which looks at no container quota and no neighbour: waiting threads spin, so beside
    one other busy process two of them can be many times slower than one, for a gain of 1.5 on an idle machine.
    And results depend on the number of threads: one gives the same weights on a laptop and in a pod.

    Raises:
        ParameterError: OMP_NUM_THREADS is not a whole number of at least 1.
    """
    text = os.environ.get("OMP_NUM_THREADS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(
            f"OMP_NUM_THREADS: {text!r} is not a number of threads; set it to 1 or more, or unset it"
        )
    return int(text)
