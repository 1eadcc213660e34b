"""Several processes of one command on this machine, started and watched by torchrun; they work as one."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from troika.errors import TrainingError, TrainingPausedError


def is_started() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ


def in_first_process() -> bool:
    """Whether this process is the first of several, or alone: the one that prints and writes."""
    return not is_started() or os.environ.get("RANK", "0") == "0"


def run_processes(count: int, module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module arguments` in `count` processes and wait for them. SIGTERM is handed on.

    Raises:
        TrainingPausedError: they have ended because this process was asked to.
        TrainingError: one of them failed; it has printed why.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1",
        # After two dashes torchrun takes none of the options for its own, nor for the beginning of one.
        "--nproc-per-node", str(count), "-m", "--", module, *arguments,
    ]  # fmt: skip
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
    asked = False
    with subprocess.Popen(command, env=os.environ | threads) as child:

        def hand_on(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of signal handlers
            nonlocal asked
            asked = True
            child.send_signal(number)

        before = signal.signal(signal.SIGTERM, hand_on)
        try:
            status = child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if asked and status:
        raise TrainingPausedError(f"asked to end; {count} processes were, and the same command goes on")
    if status:
        raise TrainingError(f"one of {count} processes failed with status {status}; its message stands above")
