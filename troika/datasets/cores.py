"""How many processor cores this process may keep busy."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that the scheduler allows and that a container's CPU limit pays for, at least 1.

    Without a look at the limit, a pod of 4 CPUs on a machine of 64 would start 64 workers.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        limit, period = quota.read_text(encoding="ascii").split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    except (OSError, ValueError):
        pass  # no control group of version 2 here: no limit that could be read
    return cores
