"""Waiting in tests for what another process or thread does. Measures nothing."""

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds: for a slow machine, since what is waited for comes."""


def wait_until(what: Callable[[], object]) -> None:
    """Return when `what()` is true; fail if it is not in time."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
