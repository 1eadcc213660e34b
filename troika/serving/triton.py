"""Run Triton on a verified bundle, on this machine; know whether one runs.

One server serves one immutable bundle: a new model is a new server, never a reload. Does not decide which
model is current; the Git pointer does (`serve_release`).
"""

import json
import logging
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil
from filelock import FileLock

from troika.errors import BundleError, ParameterError, PortInUseError, ReleaseError, ServerError
from troika.folders import write_atomic
from troika.releases.bundle import Bundle
from troika.releases.keys import check_admin_key
from troika.releases.manifest import MANIFEST
from troika.releases.pointer import read_environments, read_release
from troika.releases.store import fetch
from troika.releases.triton_config import BACKENDS
from troika.serving.front import Front, find_haproxy
from troika.serving.log_limit import LogLimit, open_log
from troika.serving.triton_process import (
    HOST,
    SERVICES,
    Installation,
    choose_ports,
    environment_folders,
    exit_in_words,
    find_installation,
    has_exited,
    hide_argument,
    is_ready,
    last_words,
    raise_file_limit,
    remove_traces,
    runs,
    server_version,
    stop,
    temporary_root,
)

ADMIN_HEADER = "troika-admin"
ADMIN_APIS = "shared-memory,model-repository,statistics,trace,logging"
"""What is closed to those without the key. Open are health, metadata, model configuration and inference."""
_CLOSED = "closed=closed"
_PING_MILLISECONDS = 1000
_POLL_SECONDS = 0.02
_START_ATTEMPTS = 3
_CRASH = "boost::interprocess::lock_exception"
"""With which Triton's Python backend may abort while it starts its model processes; seen once here, on a machine
with much other work (triton-inference-server/server issues 5949 and 8882 tell of it). Not the model's doing."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerState:
    """A running server, as others see it: the content of a state file."""

    pid: int
    process_created: float
    """Tells the server from a later process that was given the same pid."""
    http_port: int
    grpc_port: int
    metrics_port: int
    model: str
    digest: str
    log: str

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.process_created) < 1 and runs(process))
        except psutil.NoSuchProcess:
            return False


def read_state(path: Path) -> ServerState | None:
    """The running server that a state file tells of; None without a file, or if that server is dead.

    Raises:
        ServerError: the file is no state file.
    """
    try:
        state = ServerState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ServerError(f"{path} is not a server's state file: {error}; remove it, or name another") from None
    return state if state.alive() else None


class _CrashError(ServerError):
    """Triton has died of what another start may be spared."""


class TritonServer:
    """A Triton process on one bundle: started and ready inside a `with` block, gone without a trace after it.

    Args:
        folder: the bundle; every byte is checked before the process is started.
        expected_digest: what the bundle must be.
        http_port: 0 takes a free one, as do `grpc_port` and `metrics_port`.
        grpc_port: see `http_port`.
        metrics_port: see `http_port`; Prometheus metrics at /metrics.
        address: where the ports are open: 127.0.0.1, this machine only, or 0.0.0.0.
        state_file: written when ready and removed at the end, so that other commands find the server.
        log_file: where Triton's output goes. None uses a temporary file, which is kept only if Triton fails.
        tritonserver: another `tritonserver` than that of the nvidia-pytriton wheel, with its own backends.
        graph_backend: what runs the graph: None, ONNX Runtime inside the Python backend; else one of
            troika.releases.triton_config.BACKENDS, Triton's onnxruntime backend, which the wheel does not have.
        start_seconds: how long it may take to be ready; anew where it crashes and is started again.
        exit_seconds: how long requests in flight may take at the end, and unloading (about 4 s).
        admin_key: opens Triton's management (see ADMIN_APIS) to requests with the header `troika-admin`, in gRPC
            `triton-grpc-protocol-troika-admin`. None closes it to all. A key stands on Triton's command line until
            Triton is ready, where all users of this machine can read it.
        front: put HAProxy before Triton (front.py), on the ports and the address given above. Triton is then on
            free ports of this machine, and its management can be reached there only.
        arguments: more of Triton's own options.
    """

    def __init__(
        self,
        folder: Path,
        *,
        expected_digest: str | None = None,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        address: str = HOST,
        state_file: Path | None = None,
        log_file: Path | None = None,
        tritonserver: Path | None = None,
        graph_backend: str | None = None,
        start_seconds: float = 60.0,
        exit_seconds: float = 10.0,
        admin_key: str | None = None,
        front: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder, self._expected_digest = folder, expected_digest
        self._asked, self._address = (http_port, grpc_port, metrics_port), address
        self._state_file, self._log_file, self._tritonserver = state_file, log_file, tritonserver
        if graph_backend not in {None, *BACKENDS}:
            raise ParameterError(
                f"graph_backend must be one of {', '.join(BACKENDS)} or None, got {graph_backend!r}"
            )
        if not re.fullmatch(r"\d+(\.\d+){3}", address):
            raise ParameterError(
                f"address must be an IPv4 address of this machine, such as {HOST} or 0.0.0.0, got {address!r}"
            )
        self._graph_backend = graph_backend
        self._start_seconds, self._exit_seconds, self._arguments = start_seconds, exit_seconds, arguments
        self._admin_key = None if admin_key is None else check_admin_key(admin_key)
        # Every user of this machine can read Triton's command line, and it takes this from nowhere else. So a name
        # that no request can carry, in HTTP or gRPC, closes management even to who has read it.
        self._admin = f"{ADMIN_HEADER}={admin_key}" if admin_key is not None else f"{ADMIN_HEADER}\n{_CLOSED}"
        self._fronted = front
        self.front: Front | None = None
        """Set when ready, if there is to be one."""
        self._cleanup = ExitStack()
        self.seconds_to_ready = 0.0
        """From starting the process to the model being ready."""
        self.triton_version = ""
        """As the server itself says it; see triton_version.py. Set when ready."""
        self.state: ServerState
        """Set when ready."""
        self.triton_ports: tuple[int, int, int]
        """Triton's own, which differ from the state's behind a front."""

    def __enter__(self) -> Self:
        """Start and wait until the model is ready.

        Raises:
            BundleError: the bundle was tampered with; nothing was started.
            PortInUseError: a port that was asked for is taken.
            ServerError: Triton is not installed, died or was not ready in time (in its own words).
        """
        bundle = Bundle.open(self._folder.absolute(), self._expected_digest)
        installation = find_installation(self._tritonserver)
        if self._fronted:
            find_haproxy()
        if self._state_file and (running := read_state(self._state_file)):
            raise ServerError(
                f"a server runs already: pid {running.pid}, HTTP port {running.http_port}, {running.digest}; "
                f"stop it with `kill {running.pid}`"
            )
        with ExitStack() as cleanup:
            log = open_log(self._log_file, cleanup)
            # Last of all, so that a server that does not end can still be found.
            cleanup.callback(self._remove_state_file)
            cleanup.enter_context(LogLimit(log))
            for attempt in range(1, _START_ATTEMPTS + 1):
                try:
                    with ExitStack() as process_cleanup:
                        self.state = self._start(bundle, installation, log, process_cleanup)
                        cleanup.push(process_cleanup.pop_all())
                    break
                except PortInUseError:
                    # A port that was free a moment ago may be taken by the time Triton opens it.
                    if all(self._asked) or attempt == _START_ATTEMPTS:
                        raise
                except _CrashError as error:
                    if attempt == _START_ATTEMPTS:
                        raise ServerError(
                            f"Triton has crashed {attempt} times while it started; too busy a machine? {error}"
                        ) from None
                    _log.warning("Triton has crashed while it started (%s), and is started again", _CRASH)
            if self._state_file:
                write_atomic(self._state_file, json.dumps(asdict(self.state), indent=2) + "\n")
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._cleanup.__exit__(*error)

    def wait(self) -> None:
        """Block until the process ends by itself, or is of no use any more; see `stop_on_signals`.

        Raises:
            ServerError: it has ended, or one of its model processes has. Triton starts none anew and still calls
                itself ready, but answers nothing but errors there.
        """
        log = Path(self.state.log)
        while not has_exited(self.state.pid):
            if dead := [process.pid for process in self._model_processes if not runs(process)]:
                raise ServerError(
                    f"model process {dead[0]} of Triton has died (killed, or out of memory?), and Triton does not "
                    f"start another; start the server again. Whole log: {log}"
                )
            if self.front:
                self.front.check()
            time.sleep(0.2)
        ending = exit_in_words(self.state.pid)
        raise ServerError(f"Triton stopped by itself, {ending}:\n{last_words(log)}\nWhole log: {log}")

    def _start(self, bundle: Bundle, installation: Installation, log: Path, cleanup: ExitStack) -> ServerState:
        open_ports = choose_ports(self._asked)
        ports, address = (choose_ports((0, 0, 0)), HOST) if self._fronted else (open_ports, self._address)
        temporary = tempfile.TemporaryDirectory(prefix=f"troika-triton-{os.getpid()}-", dir=temporary_root())
        work = Path(cleanup.enter_context(temporary))
        # The Python backend writes byte code beside model.py; a folder of links keeps it out of the bundle.
        for name in (MANIFEST, *bundle.manifest.files):
            link = work / "bundle" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(bundle.folder / name)
        server_id = work.name
        graph_options: tuple[str, ...] = ()
        if self._graph_backend is not None:
            graphs = work / "bundle" / "graph_repository"
            graph_options = (f"--model-repository={graphs}", f"--model-config-name={self._graph_backend}")
        command = [
            *installation.command(work),
            f"--id={server_id}",
            f"--model-repository={work / 'bundle' / 'model_repository'}",
            *graph_options,
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            f"--exit-timeout-secs={max(1, int(self._exit_seconds))}",
            f"--backend-config=python,shm-region-prefix-name={server_id}-",
            # More event loops than cores only take turns: Triton's eight made a single request 10 % slower on two.
            f"--http-thread-count={min(8, os.cpu_count() or 1)}",
            *(f"--{service}-address={address}" for service in SERVICES),
            *(f"--{service}-port={port}" for service, port in zip(SERVICES, ports, strict=True)),
            f"--http-restricted-api={ADMIN_APIS}:{self._admin}",
            f"--grpc-restricted-protocol={ADMIN_APIS}:{self._admin}",
            # Clients ask whether it is still there while they wait; by default Triton ends the connection then.
            f"--grpc-http2-min-recv-ping-interval-without-data={_PING_MILLISECONDS}",
            *self._arguments,
        ]
        cleanup.callback(remove_traces, f"{server_id}-", environment_folders())
        started = time.monotonic()
        with log.open("ab") as output:
            earlier = output.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=installation.environment(os.environ),
                start_new_session=True,
            )
        cleanup.callback(stop, process, self._exit_seconds)
        raise_file_limit(process.pid)
        if self._fronted:
            self.front = Front(open_ports, self._address, ports, self._exit_seconds, log)
            cleanup.callback(self.front.close)
        while not is_ready(open_ports[0], open_ports[2], server_id, bundle.model):
            if self.front:
                self.front.check()
            if has_exited(process.pid):
                words = last_words(log, earlier)
                if "already in use" in words:
                    raise PortInUseError(f"one of the ports {ports} is taken:\n{words}")
                kind = _CrashError if _CRASH in words else ServerError
                ending = exit_in_words(process.pid)
                raise kind(f"Triton cannot serve {bundle.model}, it ended {ending}:\n{words}\nWhole log: {log}")
            if time.monotonic() - started > self._start_seconds:
                raise ServerError(
                    f"{bundle.model} was not ready after {self._start_seconds:g} s:\n{last_words(log, earlier)}\n"
                    f"Whole log: {log}"
                )
            time.sleep(_POLL_SECONDS)
        self.seconds_to_ready = time.monotonic() - started
        self.triton_version, self.triton_ports = server_version(open_ports[0]), ports
        if self._admin_key is not None:
            hide_argument(process.pid, self._admin_key)
        triton = psutil.Process(process.pid)
        self._model_processes = triton.children(recursive=True)
        return ServerState(process.pid, triton.create_time(), *open_ports, bundle.model, bundle.digest, str(log))

    def _remove_state_file(self) -> None:
        # A second server may have written its own meanwhile.
        with suppress(OSError, ValueError, KeyError, AttributeError):
            if self._state_file and json.loads(self._state_file.read_text("utf-8"))["pid"] == self.state.pid:
                self._state_file.unlink()


def serve_release(
    remote: str | Path,
    environment: str,
    cache: Path,
    *,
    branch: str = "main",
    public_key: Path | None = None,
    **options: Any,
) -> TritonServer:
    """A server, not started yet, on what `environment` should serve by the Git pointer.

    Args:
        remote: the Git remote that holds the pointer.
        environment: such as `staging`.
        cache: a folder for bundles; one that is there and whole is not fetched again, a damaged one is.
        branch: the remote's branch.
        public_key: PEM file; with it a bundle is fetched anew, and only if its owner has signed it.
        options: as for `TritonServer`.

    Raises:
        ReleaseError: the pointer cannot be read, or nothing has been released.
        StoreError: the bundle is not in the store, or damaged there.
    """
    current = read_release(remote, environment, branch)
    if current is None:
        others = ", ".join(read_environments(remote, branch))
        hint = f"; for what is released elsewhere set TROIKA_ENVIRONMENT to one of: {others}" if others else ""
        raise ReleaseError(f"nothing has been released to {environment}; `troika run` does so{hint}")
    folder = cache.absolute() / current.model / current.digest.replace(":", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        try:
            Bundle.open(folder, current.digest)
            there = public_key is None
        except BundleError:
            there = False
        if not there:
            fetch(current.store, current.model, current.digest, folder, public_key=public_key)
    return TritonServer(folder, expected_digest=current.digest, **options)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that a server inside it is stopped.

    Use in the main thread: `with stop_on_signals(), TritonServer(...) as server: server.wait()`.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
