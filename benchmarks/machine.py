"""In words, the machine that a table was measured on; the memory of processes."""

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil


def describe_machine() -> str:
    """Processor, cores that may be used, memory, Python; for what uses no GPU."""
    return f"{_processor()}, no GPU used, Python {platform.python_version()}"


def describe_gpu() -> str:
    """The same, with the GPU that PyTorch takes."""
    import torch

    gpu = torch.cuda.get_device_name(0)
    return f"{gpu}, PyTorch {torch.__version__}; {_processor()}, Python {platform.python_version()}"


def _processor() -> str:
    """Clouds name all processors of a maker alike; family and model tell them apart."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    processor = facts.get("model name", platform.machine())
    if "cpu family" in facts:
        processor += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {cores} cores, {memory:.0f} GiB"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tree_bytes(pid: int) -> float:
    """Sum of the proportional set sizes of a process and all below it."""
    return sum(_of_tree(pid, lambda process: process.memory_full_info().pss).values())


def tree_cpu_seconds(pid: int) -> dict[int, float]:
    """CPU seconds that a process and each one below it has had, by process; also of those nobody waits for."""
    return _of_tree(pid, lambda process: sum(process.cpu_times()[:2]))


def _of_tree(pid: int, look: Callable[[psutil.Process], float]) -> dict[int, float]:
    found: dict[int, float] = {}
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                found[process.pid] = look(process)
    return found
