"""Real Triton: it starts on a whole bundle only, says why it cannot, and leaves nothing behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_bundle import expected_images, tiny_bundle, tiny_spec, unsealed

from troika.errors import BundleError, ParameterError, PortInUseError, ReleaseError, ServerError, StoreError
from troika.releases.bundle import Bundle, list_files, seal
from troika.releases.pointer import ensure_local_remote, release
from troika.releases.store import publish
from troika.serving import triton as triton_module
from troika.serving.client import Client
from troika.serving.triton import ServerState, TritonServer, read_state, serve_release
from troika.serving.triton_process import choose_ports, find_installation

AT_ONCE = 0.0
SHARED_MEMORY = "/dev/shm"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def group(pid: int) -> list[int]:
    """Processes of a server's group, those that wait to be reaped by init left out."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def traces() -> set[str]:
    """What the servers of this test run and of its children put outside the bundle."""
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    places = [
        (folder, f"troika-triton-{pid}-*") for pid in own for folder in (SHARED_MEMORY, tempfile.gettempdir())
    ]
    others = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "tritonserver" and p.pid not in own]
    if not others:  # This name does not tell whose it is.
        places.append(("/tmp", "python_env_*"))
    return {str(path) for folder, pattern in places for path in Path(folder).glob(pattern)}


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before = traces()
    yield
    assert traces() - before == set()


@pytest.mark.parametrize("exit_seconds", [AT_ONCE, 10.0])
def test_a_server_serves_writes_its_state_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, exit_seconds: float
) -> None:
    state_file = tmp_path / "run" / "server.json"
    with nothing_left_behind():
        with TritonServer(bundle.folder, state_file=state_file, exit_seconds=exit_seconds) as server:
            state = read_state(state_file)
            assert state == server.state
            assert (state.model, state.digest) == ("tiny", bundle.digest)
            assert len(group(state.pid)) == 3  # Negative control: Triton and two Python processes are seen.
            assert len(traces()) > 3
            assert 0 < server.seconds_to_ready < 60
            with Client(f"127.0.0.1:{state.grpc_port}", model=state.model) as client:
                assert (client.generate(2).images == expected_images([0, 1], [0, 1])).all()
            with pytest.raises(ServerError, match=f"runs already: pid {state.pid}"):
                TritonServer(bundle.folder, state_file=state_file).__enter__()
        assert group(state.pid) == []
        assert not state_file.exists()
        assert not state.alive()
    assert list_files(bundle.folder) == sorted([*bundle.manifest.files, "manifest.json"])


def test_all_ports_are_on_this_machine_only(server: TritonServer) -> None:
    listening = {
        connection.laddr
        for process in [psutil.Process(server.state.pid)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    state = server.state
    # gRPC listens on an IPv6 socket, which shows the same address in its IPv6 form.
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {state.http_port, state.grpc_port, state.metrics_port}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_taken_port_is_named(bundle: Bundle, number: int) -> None:
    with socket.socket() as holder, nothing_left_behind():
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        asked = {["http_port", "grpc_port", "metrics_port"][number]: port}
        with pytest.raises(PortInUseError, match=f"port {port} cannot be opened.*choose another"):
            TritonServer(bundle.folder, **asked).__enter__()


def test_ports_that_no_machine_has_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"grpc port must be in 0\.\.65535, got 70000"):
        choose_ports((0, 70000, 0))


@pytest.mark.parametrize("number", [0, 2])
def test_a_free_port_that_is_taken_at_the_last_moment_is_replaced(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with socket.socket() as holder, nothing_left_behind():
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        given: list[list[int]] = []

        def unlucky(asked: tuple[int, int, int]) -> tuple[int, ...]:
            ports = list(choose_ports(asked))
            if not given:
                ports[number] = holder.getsockname()[1]
            given.append(ports)
            return tuple(ports)

        monkeypatch.setattr(triton_module, "choose_ports", unlucky)
        with TritonServer(bundle.folder, exit_seconds=AT_ONCE) as server:
            assert len(given) == 2
            assert server.state.http_port == given[1][0]


def spoil_graph(entry: Path) -> None:
    (entry.parents[1] / "graph_repository" / "tiny_graph" / "1" / "model.onnx").write_bytes(b"nonsense")


def spoil_config(entry: Path) -> None:
    (entry / "config.pbtxt").write_text('name: "tiny" flavour: 3')


def spoil_code(entry: Path) -> None:
    (entry / "1" / "model.py").write_text("import nothing_of_that_name\n")


def crash(entry: Path) -> None:
    (entry / "1" / "model.py").write_text("import os\nos._exit(3)\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_graph, "Protobuf parsing failed"),
        (spoil_config, 'no field named "flavour"'),
        (spoil_code, "No module named 'nothing_of_that_name'"),
        (crash, "not healthy|unexpectedly exited"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_explained(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = unsealed(tmp_path / "bundle")
    spoil(folder / "model_repository" / "tiny")
    seal(folder, "tiny", tiny_spec(conditional=True), {})
    log = tmp_path / "logs" / "triton.log"
    state_file = tmp_path / "state.json"
    with nothing_left_behind(), pytest.raises(ServerError, match=words) as caught:
        TritonServer(folder, log_file=log, state_file=state_file, exit_seconds=AT_ONCE).__enter__()
    assert str(log) in str(caught.value)
    assert log.stat().st_size > 0
    assert len(str(caught.value).splitlines()) <= 9
    assert not state_file.exists()


def test_the_temporary_log_outlives_a_failure_only(tmp_path: Path) -> None:
    folder = unsealed(tmp_path / "bundle")
    spoil_code(folder / "model_repository" / "tiny")
    seal(folder, "tiny", tiny_spec(conditional=True), {})
    with pytest.raises(ServerError) as caught:
        TritonServer(folder, exit_seconds=AT_ONCE).__enter__()
    log = Path(str(caught.value).rpartition("Whole log: ")[2])
    assert "nothing_of_that_name" in log.read_text()
    log.unlink()


def test_a_server_that_is_not_ready_in_time_is_stopped(bundle: Bundle, tmp_path: Path) -> None:
    with nothing_left_behind(), pytest.raises(ServerError, match=r"not ready after 0\.05 s"):
        TritonServer(
            bundle.folder, start_seconds=0.05, exit_seconds=AT_ONCE, log_file=tmp_path / "log"
        ).__enter__()


def test_a_tampered_bundle_never_starts_triton(bundle: Bundle, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    program = tmp_path / "tritonserver"
    program.write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    program.chmod(stat.S_IRWXU)
    with pytest.raises(ServerError, match="Triton cannot serve tiny"):
        TritonServer(bundle.folder, tritonserver=program, log_file=tmp_path / "log").__enter__()
    assert marker.exists()  # Negative control: a whole bundle does start this program.
    marker.unlink()

    code = bundle.folder / "model_repository" / "tiny" / "1" / "model.py"
    code.write_text(code.read_text() + "#")
    with pytest.raises(BundleError, match=r"model\.py was changed"):
        TritonServer(bundle.folder, tritonserver=program).__enter__()
    with pytest.raises(BundleError, match="expected sha256:0000"):
        TritonServer(bundle.folder, tritonserver=program, expected_digest="sha256:" + "0" * 64).__enter__()
    assert not marker.exists()


def test_a_missing_program_or_an_unwritable_log_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no-triton does not exist"):
        TritonServer(bundle.folder, tritonserver=tmp_path / "no-triton").__enter__()
    with pytest.raises(ServerError, match="cannot write log file"):
        TritonServer(bundle.folder, log_file=Path("/proc/x/log")).__enter__()


def own_program(folder: Path, first: str = "") -> Path:
    """Triton as NVIDIA's image has it: the same, started without the wheel's options; `first` is done first."""
    installation = find_installation()
    command = installation.command(folder)
    program = folder / "tritonserver"
    variables = " ".join(f"{name}={value}" for name, value in installation.environment({}).items())
    program.write_text(f'#!/bin/sh\n{first}\nexec env {variables} {" ".join(command)} "$@"\n')
    program.chmod(stat.S_IRWXU)
    return program


LOCK, MEMORY = "boost::interprocess::lock_exception", "std::bad_alloc"


def crashing(starts: Path, *words: str) -> str:
    """A script's part that does at its first starts what the real one does seldom."""
    crash = "echo \"terminate called after throwing an instance of '{}'\"; kill -ABRT $$"
    cases = [f"{number}) {crash.format(one)};;" for number, one in enumerate(words, 1)]
    return "\n".join([f"echo >> {starts}", f"case $(wc -l < {starts}) in", *cases, "esac"])


def test_a_triton_that_crashes_while_it_starts_its_processes_is_started_again(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"exit_seconds": AT_ONCE, "log_file": tmp_path / "log"}
    program = own_program(tmp_path, crashing(tmp_path / "starts", LOCK, LOCK))
    with nothing_left_behind(), TritonServer(bundle.folder, tritonserver=program, **options) as server:
        assert server.state.digest == bundle.digest
    assert caplog.text.count(f"has crashed while it started ({LOCK})") == 2


@pytest.mark.parametrize("crashes", [(LOCK, LOCK, LOCK), (MEMORY,), (LOCK, MEMORY)])
def test_a_triton_that_goes_on_crashing_or_fails_otherwise_is_given_up(
    bundle: Bundle, tmp_path: Path, crashes: tuple[str, ...]
) -> None:
    program = own_program(tmp_path, crashing(tmp_path / "starts", *crashes))
    with (
        nothing_left_behind(),
        pytest.raises(ServerError, match=rf"cannot serve tiny, .*:\n.*{crashes[-1]}") as caught,
    ):
        TritonServer(bundle.folder, tritonserver=program, log_file=tmp_path / "log").__enter__()
    assert type(caught.value) is ServerError
    assert (tmp_path / "starts").read_text().count("\n") == len(crashes)


def test_another_program_with_its_own_folders_can_be_used(bundle: Bundle, tmp_path: Path) -> None:
    program = own_program(tmp_path)
    with TritonServer(bundle.folder, tritonserver=program, exit_seconds=AT_ONCE) as server:
        assert server.state.digest == bundle.digest


def test_state_files_of_the_dead_are_not_believed(server: TritonServer, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_state(path) is None

    def stored(state: ServerState) -> ServerState | None:
        path.write_text(json.dumps(asdict(state)))
        return read_state(path)

    assert stored(server.state) == server.state
    assert stored(replace(server.state, process_created=server.state.process_created - 60)) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        created = psutil.Process(process.pid).create_time()
        assert process.wait() == 0
        assert stored(replace(server.state, pid=process.pid, process_created=created)) is None
    for text in ("{}", "[]", "nonsense", '{"pid": 1}'):
        path.write_text(text)
        with pytest.raises(ServerError, match="not a server's state file"):
            read_state(path)


def test_a_stale_state_file_does_not_stop_a_start(bundle: Bundle, server: TritonServer, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(asdict(replace(server.state, process_created=1.0))))
    with TritonServer(bundle.folder, state_file=path, exit_seconds=AT_ONCE) as second:
        assert read_state(path) == second.state


def test_the_death_of_the_server_is_noticed_and_its_children_end(bundle: Bundle, tmp_path: Path) -> None:
    with nothing_left_behind():
        with TritonServer(bundle.folder, exit_seconds=AT_ONCE, log_file=tmp_path / "log") as server:
            os.kill(server.state.pid, signal.SIGKILL)
            with pytest.raises(ServerError, match="stopped by itself"):
                server.wait()
        assert group(server.state.pid) == []


SERVE = """
import sys
from pathlib import Path
from troika.serving.triton import TritonServer, stop_on_signals
bundle, state_file = map(Path, sys.argv[1:])
with stop_on_signals(), TritonServer(bundle, state_file=state_file, exit_seconds=0) as server:
    print("ready", flush=True)
    server.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_foreground_process_stops_the_server(
    bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    state_file = tmp_path / "state.json"
    # A shell's background jobs, and what they start, ignore SIGINT unless told otherwise.
    command = ["env", "--default-signal=INT", sys.executable, "-c", SERVE, str(bundle.folder), str(state_file)]
    with nothing_left_behind():
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            state = read_state(state_file)
            assert state is not None
            process.send_signal(number)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()  # else the block's end would wait for ever
                raise
        assert process.returncode in {128 + number, -number}
        assert group(state.pid) == []
        assert not state_file.exists()


def test_a_release_is_fetched_verified_and_served_and_survives_a_damaged_cache(
    bundle: Bundle, tmp_path: Path
) -> None:
    remote = ensure_local_remote(tmp_path / "remote.git")
    with pytest.raises(ReleaseError, match="nothing has been released to staging"):
        serve_release(remote, "staging", tmp_path / "cache")
    verdict = {"decision": "promote", "bundle_digest": bundle.digest}
    published = publish(bundle, verdict, tmp_path / "store")
    release(remote, "staging", published, "a" * 64)
    with (
        serve_release(remote, "staging", tmp_path / "cache", exit_seconds=AT_ONCE) as server,
        Client(f"127.0.0.1:{server.state.grpc_port}", model=server.state.model) as client,
    ):
        assert client.generate(1).model_digest == bundle.digest

    (cached,) = (tmp_path / "cache" / "tiny").glob("sha256-*[!k]")
    (tmp_path / "store").rename(tmp_path / "gone")
    serve_release(remote, "staging", tmp_path / "cache")  # A whole copy needs no store.
    (cached / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="not in the model store"):
        serve_release(remote, "staging", tmp_path / "cache")
    (tmp_path / "gone").rename(tmp_path / "store")
    serve_release(remote, "staging", tmp_path / "cache")
    Bundle.open(cached, bundle.digest)
