"""Hold PyTorch to the processor threads that it may use here."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from troika.threads import cpu_threads


@contextmanager
def few_threads() -> Iterator[None]:
    """Inside the block PyTorch uses `cpu_threads()` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(cpu_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
