"""How many processor threads a framework may use here. Knows no framework."""

import os

from troika.errors import ParameterError


def cpu_threads() -> int:
    """One, or what OMP_NUM_THREADS says.

    Not a framework's own choice, which looks at no container quota and no neighbour: waiting threads spin, so
    beside one other busy process two of them can be many times slower than one, for a gain of 1.5 on an idle
    machine. And results depend on the number of threads: one gives the same weights on a laptop and in a pod.

    Raises:
        ParameterError: OMP_NUM_THREADS is not a whole number of at least 1.
    """
    text = os.environ.get("OMP_NUM_THREADS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(
            f"OMP_NUM_THREADS: {text!r} is not a number of threads; set it to 1 or more, or unset it"
        )
    return int(text)
