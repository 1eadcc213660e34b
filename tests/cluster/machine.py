"""A machine inside this one: Linux namespaces of its own for processes, network and mounts.

Its first process ends with the test run, however that ends, and the kernel then ends all others and forgets
network and mounts. Only cgroups' folders and files stay; `clean` removes those of runs that are over.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from binaries import STATE

NODE_ADDRESS = "172.18.0.2"
OUTSIDE_ADDRESS = "198.51.100.7"
SERVICES = "10.96.0.0/12"
DNS_ADDRESS = "10.96.0.10"
PODS = "10.244.0.0/16"
_CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "troika-cluster-"
# The kubelet sets these for the whole machine unless they are so already: files with what it wants cover them.
_KUBELET_WANTS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
_COVER = "".join(
    f"echo {value} > /run/sysctl/{name.replace('/', '.')}\n"
    f"mount --bind /run/sysctl/{name.replace('/', '.')} /proc/sys/{name}\n"
    for name, value in _KUBELET_WANTS.items()
)
# Two networks: the node's, and `outside`, which stands for the internet. The default route of each leads to the
# other and no further: nothing here reaches the machine's own network.
_SET_UP = f"""
set -eu
for folder in /run /var/log; do mount -t tmpfs tmpfs $folder; done
mount --make-rshared /run
mkdir /run/sysctl
{_COVER}printf 'nameserver {DNS_ADDRESS}\\n' > /run/resolv.conf
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)" 2>/dev/null || true
ip link set lo up
ip link add br-node type bridge; ip addr add {NODE_ADDRESS}/16 dev br-node; ip link set br-node up
ip netns add outside; ip -n outside link set lo up
ip link add out0 type veth peer name out1 netns outside
ip addr add 198.51.100.1/24 dev out0; ip link set out0 up
ip -n outside addr add {OUTSIDE_ADDRESS}/24 dev out1; ip -n outside link set out1 up
ip -n outside route add default via 198.51.100.1
ip route add default via {OUTSIDE_ADDRESS}
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
"""
# Children that nobody waits for are forgotten at once, as an init process does.
_FIRST_PROCESS = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"


class Machine:
    """Namespaces that exist from `with` on; `run` and `start` put programs there."""

    def __init__(self) -> None:
        clean()
        runs = STATE / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=runs))
        self.folder.chmod(0o755)
        self.cgroup = f"{_PREFIX}{self.folder.name}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._first: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._first = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount",
                    "--mount-proc", "--net", "--propagation=private", sys.executable, "-S", "-c", _FIRST_PROCESS,
                ],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            self._inside = self._child(self._first)
            # So that a later run knows what is left of this one, and that it is over.
            (self.folder / "first-process").write_text(f"{self._inside} {_started(self._inside)}")
            _make_cgroups(self.cgroup)
            self.run("bash", "-c", _SET_UP)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            self._first.kill()
            self._first.wait()
            for process in self._processes.values():
                process.wait()
        # Of the last run alone: why something did not start, or ended.
        logs = STATE / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        for log in self.folder.glob("*.log"):
            shutil.copy(log, logs)
        _remove(self.folder)

    def _child(self, process: subprocess.Popen[bytes]) -> int:
        """Return the number of the first process inside, as the outside sees it, once its /proc is there."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError("no namespaces can be made here (root is needed)")
            found = children.read_text().split()
            # The program changes once all namespaces are made.
            return bool(found) and Path(f"/proc/{found[0]}/exe").resolve().name.startswith("python")

        wait_for(ready, 30, "namespaces")
        return int(children.read_text().split()[0])

    def command(self, *command: str | Path, network: str | None = None) -> list[str]:
        """Return the command that runs `command` inside; in the named network, or the node's."""
        # Not `ip netns exec`: it makes a mount namespace for each command, and others do not see its mounts.
        other = ["nsenter", f"--net=/run/netns/{network}", "--"] if network else []
        return [
            "nsenter", f"--target={self._inside}", "--pid", "--mount", "--net", "--", *other, *map(str, command),
        ]  # fmt: skip

    def run(
        self,
        *command: str | Path,
        network: str | None = None,
        check: bool = True,
        text: str | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        done = subprocess.run(
            self.command(*command, network=network),
            check=False, capture_output=True, text=True, timeout=timeout, input=text,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done

    def start(
        self,
        name: str,
        *command: str | Path,
        network: str | None = None,
        environment: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program inside that lasts; its output is in `<name>.log`."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(*command, network=network),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self._processes[name] = process
        return process

    def stop(self, name: str) -> None:
        """Stop a program that was started."""
        process = self._processes.pop(name)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        process.wait(timeout=60)

    def log(self, name: str) -> str:
        """Return what a program has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def forward(self, name: str, address: str, port: int) -> int:
        """Return a port of this machine's loopback that leads to an address inside."""
        with socket.create_server(("127.0.0.1", 0)) as outside:
            descriptor = outside.fileno()
            script = Path(__file__).with_name("forward.py")
            self.start(
                name, sys.executable, "-S", script, str(descriptor), address, str(port), pass_fds=(descriptor,)
            )
            found: int = outside.getsockname()[1]
        return found

    def has_ended(self) -> list[str]:
        """Return the names of started programs that have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]


def wait_for(what: Callable[[], object], seconds: float, name: str) -> None:
    """Return when `what()` is true."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError(f"{name}: not ready after {seconds:.0f} s")
        time.sleep(0.1)


def clean() -> None:
    """Remove what runs have left that are over; their processes, networks and mounts have ended with them."""
    for folder in sorted((STATE / "runs").glob("*-*")):
        noted = folder / "first-process"
        owner = int(folder.name.split("-")[0])
        alive = _alive(*noted.read_text().split()) if noted.exists() else Path(f"/proc/{owner}").exists()
        if not alive:
            _remove(folder)


def _alive(process: str, started: str) -> bool:
    with suppress(OSError):
        return _started(int(process)) == started
    return False


def _started(process: int) -> str:
    """Return when a process started, since its number is given again."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def _remove(folder: Path) -> None:
    for cgroup in _cgroups(f"{_PREFIX}{folder.name}"):
        # Their last processes end a moment after the namespace's first.
        end = time.monotonic() + 20
        while cgroup.exists() and time.monotonic() < end:
            for below, _, _ in os.walk(cgroup, topdown=False):
                with suppress(OSError):
                    Path(below).rmdir()
            time.sleep(0.05 if cgroup.exists() else 0)
    shutil.rmtree(folder, ignore_errors=True)


def _cgroups(name: str) -> list[Path]:
    """Return the folder of this cgroup in each hierarchy: one (v2), or one for each controller (v1)."""
    roots = [_CGROUPS] if (_CGROUPS / "cgroup.controllers").exists() else sorted(_CGROUPS.iterdir())
    return [root / name for root in roots if root.is_dir() and not root.is_symlink()]


def _make_cgroups(name: str) -> None:
    for folder in _cgroups(name):
        folder.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # v1 starts with none
            if folder.parent.name == "cpuset":
                (folder / file).write_text((folder.parent / file).read_text())
        if (folder / "cgroup.controllers").exists() and folder.parent == _CGROUPS:  # v2 starts without controllers
            given = " ".join(f"+{each}" for each in (folder.parent / "cgroup.controllers").read_text().split())
            for parent in (folder.parent, folder):
                with suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text(given)
