"""Run the front of Triton on this machine: HAProxy with haproxy.cfg, which refuses what would end Triton.

In a cluster the same file is in an image of its own (Dockerfile.front). Knows nothing of Triton but its ports.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from troika.errors import PortInUseError, ServerError
from troika.serving.triton_process import SERVICES, has_exited, last_words, stop

CONFIGURATION = Path(__file__).with_name("haproxy.cfg")
OLDEST = (2, 6)
# Where Debian installs it; an ordinary user's PATH lacks that folder.
_FOLDERS = "/usr/sbin:/usr/local/sbin"
_POLL_SECONDS = 0.02


def find_haproxy() -> Path:
    """Return the path of a HAProxy that can read haproxy.cfg.

    Raises:
        ServerError: there is none, or it is too old.
    """
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:{_FOLDERS}")
    if found is None:
        raise ServerError("the front needs HAProxy 2.6 or later: `apt-get install haproxy`, or leave out --front")
    said = subprocess.run([found, "-v"], check=False, capture_output=True, text=True).stdout
    numbers = re.search(r"version (\d+)\.(\d+)", said)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST:
        raise ServerError(f"the front needs HAProxy 2.6 or later, and {found} says {said.splitlines()[:1]}")
    return Path(found)


class Front:
    """A HAProxy process before one Triton.

    Args:
        ports: where it listens, in the order of SERVICES.
        address: the address of those ports.
        triton: Triton's ports on this machine, in the same order.
        drain_seconds: how long connections may wait for a last request at the end.
        log: HAProxy's own messages are appended to it; requests are not logged.
    """

    def __init__(
        self,
        ports: tuple[int, int, int],
        address: str,
        triton: tuple[int, int, int],
        drain_seconds: float,
        log: Path,
    ) -> None:
        self._ports, self._log, self._drain_seconds = ports, log, drain_seconds
        with log.open("ab") as output:
            self._earlier = output.tell()
            self._process = subprocess.Popen(
                [find_haproxy(), "-db", "-f", CONFIGURATION],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=settings(os.environ, ports, address, triton, drain_seconds),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """HAProxy's process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return has_exited(self._process.pid)

    def check(self) -> None:
        """Raise what ended the process.

        Raises:
            PortInUseError: one of its ports is taken.
            ServerError: another reason.
        """
        if not self.ended:
            return
        words = last_words(self._log, self._earlier)
        if "cannot bind" in words:
            raise PortInUseError(f"one of the front's ports {self._ports} is taken:\n{words}")
        raise ServerError(f"the front (HAProxy) has ended:\n{words}\nWhole log: {self._log}")

    def close(self) -> None:
        """Let requests under way come to their end, then end the process."""
        try:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)
            deadline = time.monotonic() + self._drain_seconds
            while not self.ended and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        finally:
            # Also where a second Ctrl-C ends the wait.
            stop(self._process, 0)


def settings(
    inherited: Mapping[str, str],
    ports: tuple[int, int, int],
    address: str,
    triton: tuple[int, int, int],
    drain_seconds: float,
) -> dict[str, str]:
    """Return the environment that haproxy.cfg reads."""
    names = [service.upper() for service in SERVICES]
    return {
        **inherited,
        **{f"TROIKA_FRONT_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)},
        **{f"TROIKA_{name}_PORT": str(port) for name, port in zip(names, triton, strict=True)},
        "TROIKA_FRONT_ADDRESS": address,
        "TROIKA_FRONT_DRAIN_SECONDS": str(max(1, round(drain_seconds))),
    }
