"""Contenders that take turns on one machine, each in a process of its own with the same number of threads.

A shared machine is not equally fast all the time, so a round's ratio is that of neighbours in time. Knows nothing
of what they do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from benchmarks.machine import describe_machine, table

Steps = Callable[[int], None]
"""Does so many training steps, and waits for them."""
Contender = Callable[[str, int], AbstractContextManager[Steps]]
"""(name, threads) -> its steps."""
Columns = Sequence[tuple[str, str, Collection[str]]]
"""Of each: its heading, whose speed its median ratio is to, and which contenders that means something for."""
_WARM_UP_STEPS = 5


def take_turns(
    module: str,
    doc: str | None,
    names: Sequence[str],
    contender: Contender,
    batch: int,
    columns: Columns,
    machine: Callable[[], str] = describe_machine,
    at_once: int = 10,
) -> None:
    """The command line of such a benchmark: print one row for each contender, or be one.

    Args:
        module: that calls, to be started again for each contender.
        doc: its docstring.
        names: of the contenders.
        contender: opens one.
        batch: images in a step.
        columns: ratios to print.
        machine: what it is measured on, in words.
        at_once: steps between two looks at the clock.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contender in each round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", choices=names, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        with contender(given.work, given.threads) as steps:
            _serve(steps, batch, at_once)
        return
    speeds: dict[str, list[float]] = {name: [] for name in names}
    processes = {name: _start(module, name, given.threads) for name in names}
    for number in range(given.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            speeds[name].append(_ask(processes[name], given.seconds))
    for process in processes.values():
        process.communicate("")
    print(f"\n{machine()}, {given.threads} threads, {given.rounds} rounds\n")
    rows = [[name, *_row(name, speeds, columns)] for name in names]
    print(table(["contender", "images/s, median", "range", *(heading for heading, *_ in columns)], rows))


def _row(name: str, speeds: dict[str, list[float]], columns: Columns) -> list[str]:
    found = speeds[name]
    cells = [f"{statistics.median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"]
    for _, base, compared in columns:
        ratios = [one / other for one, other in zip(found, speeds[base], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}" if name in compared else "")
    return cells


def _start(module: str, name: str, threads: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, "-m", module, "--work", name, "--threads", str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        sys.exit(f"{name} did not start; its own words stand above")
    return process


def _ask(process: "subprocess.Popen[str]", seconds: float) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _serve(steps: Steps, batch: int, at_once: int) -> None:
    """Say `ready`, then for every line with a number of seconds, the images in a second over that time."""
    steps(_WARM_UP_STEPS)
    print("ready", flush=True)
    for line in sys.stdin:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < float(line):
            steps(at_once)
            done += at_once
        print(done * batch / (time.perf_counter() - started), flush=True)
