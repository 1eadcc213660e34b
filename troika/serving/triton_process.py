"""What it takes to run the `tritonserver` program here: where it is, its ports, its end, its last words.

The PyPI wheel nvidia-pytriton ships the real server, but in parts that must be put together for it to start.
Knows nothing of bundles; triton.py does.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from troika.errors import ParameterError, PortInUseError, ServerError, install_hint
from troika.serving.triton_version import version_of

HOST = "127.0.0.1"
SERVICES = ("http", "grpc", "metrics")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_OPEN_FILES = 2**20
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
_PLAIN_FOLDERS = (Path("/tmp"), Path("/var/tmp"), _SHARED_MEMORY)  # noqa: S108
_OFTEN_MEANS = {
    "SIGKILL": ", which often means out of memory",
    "SIGSEGV": ", a fault of Triton or of a library",
    "SIGABRT": ", a fault of Triton or of a library",
    "SIGFPE": ", a fault of Triton or of a library",
}
# Written into the binary of the Python backend; TMPDIR does not move it.
_ENVIRONMENT_FOLDERS = (Path("/tmp"), "python_env_*")  # noqa: S108


@dataclass(frozen=True)
class Installation:
    """A `tritonserver` program; `wheel` is None for one that brings its own folders (NVIDIA's image)."""

    program: Path
    wheel: Path | None

    @property
    def version(self) -> str | None:
        """Triton's own, such as 2.51.0; None where only a start can tell."""
        return version_of(self.program, self.wheel is not None)

    def command(self, work: Path) -> list[str]:
        """The program with the folders it needs; a folder of links is made in `work`."""
        if self.wheel is None:
            return [str(self.program)]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = self.wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            raise ServerError(f"nvidia-pytriton has no Triton backend for Python {version}; use Python 3.11")
        backend = work / "backends" / "python"
        backend.mkdir(parents=True)
        for file in (*(self.wheel / "backends" / "python").iterdir(), stub):
            if file.is_file():
                (backend / file.name).symlink_to(file)
        folders = [f"--backend-directory={backend.parent}", f"--cache-directory={self.wheel / 'caches'}"]
        return [str(self.program), *folders]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """`inherited` and what the program needs: its libraries, and this Python as the first on PATH."""
        environment = dict(inherited)
        # The backend runs the first `python3` on PATH; it must be the one that has ONNX Runtime.
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
        if self.wheel is not None:
            libraries = self.wheel.parents[1] / "nvidia_pytriton.libs"
            environment["LD_LIBRARY_PATH"] = f"{libraries}:{sysconfig.get_config_var('LIBDIR')}"
        return environment


def find_installation(program: Path | None = None) -> Installation:
    """The given `tritonserver`, or that of the nvidia-pytriton wheel.

    Raises:
        ServerError: there is none.
    """
    if program is not None:
        found = shutil.which(program)
        if found is None:
            raise ServerError(f"tritonserver {program} does not exist or is not a program; give its path")
        return Installation(Path(found), None)
    spec = find_spec("pytriton")
    wheel = Path(spec.origin).parent / "tritonserver" if spec and spec.origin else None
    if wheel is None or not (wheel / "bin" / "tritonserver").is_file():
        raise ServerError(
            f"Triton is not installed: {install_hint('serve')} (Linux), or give a tritonserver program"
        )
    return Installation(wheel / "bin" / "tritonserver", wheel)


def choose_ports(asked: Iterable[int]) -> tuple[int, int, int]:
    """The asked-for ports, with a free one for every 0; in the order of SERVICES.

    Raises:
        ParameterError: a number is not in 0..65535.
        PortInUseError: a port is taken or may not be opened.
    """
    with ExitStack() as sockets:
        ports = []
        for service, port in zip(SERVICES, asked, strict=True):
            if not 0 <= port <= 65535:
                raise ParameterError(f"{service} port must be in 0..65535, got {port}")
            # All are held until all are chosen, else the same free one could be given out twice.
            listener = sockets.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
                listener.listen(1)
            except OSError as error:
                raise PortInUseError(
                    f"{service} port {port} cannot be opened: {error.strerror}; stop the program "
                    "that holds it, or choose another (0 takes a free one)"
                ) from None
            ports.append(listener.getsockname()[1])
        return (ports[0], ports[1], ports[2])


def free_or(port: int, otherwise: int) -> int:
    """Return `port` if it can be opened on this machine now, else `otherwise`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError:
            return otherwise
    return port


def has_exited(pid: int) -> bool:
    """Whether a child process has ended. Does not reap it, so that its group's number cannot be reused."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def runs(process: psutil.Process) -> bool:
    """Whether a process is there and does something; one that has died and is not reaped yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def hide_argument(pid: int, text: str) -> None:
    """Write over `text` in the command line of a process of ours, as others see it.

    Raises:
        ServerError: it could not be done.
    """
    try:
        # After the program's name, which may hold blanks: fields 48 and 49 of man proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            shown = memory.read(end - start)
            memory.seek(start)
            memory.write(shown.replace(f"={text}\0".encode(), b"=" + b"*" * len(text) + b"\0"))
    except (OSError, ValueError, IndexError) as error:
        raise ServerError(
            f"the admin key would stay on Triton's command line, which all users can read: {error}; do without it"
        ) from None


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End a process that leads its own group: politely, after `seconds` by force, and all of its group."""
    try:
        if not has_exited(process.pid):
            process.terminate()
            deadline = time.monotonic() + seconds
            while not has_exited(process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        # Also where a second Ctrl-C ends the wait. Triton that dies early leaves its Python processes behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while _running_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.wait()


def exit_in_words(pid: int) -> str:
    """Return how a child process has ended that has not been reaped: by which signal, or with which status."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        ended = None
    if ended is None:
        return "for a reason that is not known"
    if ended.si_code == os.CLD_EXITED:
        return f"with exit status {ended.si_status}"
    try:
        name = signal.Signals(ended.si_status).name
    except ValueError:
        name = f"signal {ended.si_status}"
    return f"by {name}{_OFTEN_MEANS.get(name, '')}"


def raise_file_limit(pid: int) -> None:
    """Let a process of ours have as many open files as it may: connections are files, too."""
    process = psutil.Process(pid)
    _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    enough = _OPEN_FILES if hard in (-1, psutil.RLIM_INFINITY) else min(hard, _OPEN_FILES)
    process.rlimit(psutil.RLIMIT_NOFILE, (enough, hard))


def temporary_root() -> Path:
    """Return a folder for temporary files whose path Triton's Python backend can use: it hands it to a shell.

    Raises:
        ServerError: there is none.
    """
    for root in (Path(tempfile.gettempdir()), *_PLAIN_FOLDERS):
        if _PLAIN_PATH.fullmatch(str(root)) and os.access(root, os.W_OK | os.X_OK):
            return root
    raise ServerError(
        f"temporary files cannot be put into {tempfile.gettempdir()!r}: Triton needs a path of letters, digits "
        "and / . _ - alone; set TMPDIR to one that may be written"
    )


def _running_members(group: int) -> list[int]:
    """Processes of a group that still run; one that init has not reaped yet does not."""
    members = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


def environment_folders() -> set[Path]:
    """Folders that Python backends have in /tmp at the moment."""
    folder, pattern = _ENVIRONMENT_FOLDERS
    return set(folder.glob(pattern))


def remove_traces(prefix: str, folders_before: set[Path]) -> None:
    """Remove what a killed Triton leaves: its shared memory, and its folder in /tmp.

    Args:
        prefix: what the server's shared-memory regions begin with.
        folders_before: `environment_folders()` before it was started.
    """
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    for folder in environment_folders() - folders_before:
        # Removes empty ones only: a server that was started meanwhile does not miss it.
        with suppress(OSError):
            folder.rmdir()


def answer(port: int, path: str) -> bytes | None:
    """Body of a 200 answer to an HTTP request on this machine; None for any other answer, or for none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


def is_ready(port: int, metrics_port: int, server_id: str, model: str) -> bool:
    """Whether the server of this name (not another one that took the port) can answer for `model`."""
    # Metrics come up last, and Triton exits if their port is taken.
    if answer(port, f"/v2/models/{model}/ready") is None or answer(metrics_port, "/metrics") is None:
        return False
    try:
        return bool(json.loads(answer(port, "/v2") or b"{}").get("name") == server_id)
    except ValueError:
        return False


def server_version(port: int) -> str:
    """Return the version that a running Triton says it has; empty if it does not answer."""
    try:
        return str(json.loads(answer(port, "/v2") or b"{}").get("version", ""))
    except (ValueError, AttributeError):
        return ""


def last_words(log: Path, start: int = 0, lines: int = 6) -> str:
    """What a log says about the failure: its last errors, each once, less what Triton always complains of.

    Args:
        log: of one or several starts.
        start: bytes of it that belong to earlier ones.
        lines: at most so many.
    """
    harmless = re.compile(r"UNKNOWN:No address|Cuda|CUDA|NVML|DCGM|pinned|^[|+]|^\s*$")
    error = re.compile(r"[EF]\d{4} |\[libprotobuf ERROR|\w*[Ee]rror|terminate|Traceback")
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except FileNotFoundError:
        return "(its log is gone: the server was stopped from elsewhere)"
    said = [line for line in text.splitlines() if not harmless.search(line)]
    chosen = [line for line in said if error.match(line)] or said
    # Less time, pid, line of Triton's source and Python's stack: all that stands in the log.
    short = [re.sub(r'^[A-Z]\d{4} \S+ +\d+ [\w.]+:\d+\] *"?|"?\s*$', "", line) for line in chosen]
    return "\n".join(list(dict.fromkeys(line.split(r"\n\nAt:")[0] for line in short))[-lines:])
