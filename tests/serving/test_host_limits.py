"""What the host limits or does to a server: open files, disk, signals, folders; and what other users may see."""

import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from raw_requests import grpc_status, http_status
from tiny_bundle import tiny_bundle
from waiting import wait_until

from troika.errors import ParameterError, ServerError
from troika.releases.bundle import Bundle
from troika.serving import container, health, triton_process
from troika.serving.client import Client
from troika.serving.log_limit import LogLimit, aside
from troika.serving.triton import TritonServer, read_state

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone may")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("limits") / "bundle")


def seen_by_another_user(pid: int) -> bytes:
    """The command line of a process, as `nobody` reads it."""
    options: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
    return subprocess.run(["cat", f"/proc/{pid}/cmdline"], check=True, capture_output=True, **options).stdout


def header_of(command_line: bytes, option: bytes) -> tuple[bytes, bytes]:
    """Name and value of the header that opens management, as an option of Triton says it."""
    (given,) = (part for part in command_line.split(b"\0") if part.startswith(option))
    name, _, value = given.partition(b":")[2].partition(b"=")
    return name, value


@needs_root
def test_another_user_cannot_manage_the_server_by_what_stands_on_its_command_line(bundle: Bundle) -> None:
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        shown = seen_by_another_user(server.state.pid)
        http_header = header_of(shown, b"--http-restricted-api")
        name, value = header_of(shown, b"--grpc-restricted-protocol")
        # As it is, and what a careless server could take for it.
        forms = [name, name.replace(b"\n", b""), name.replace(b"\n", b"\n "), *name.split(b"\n")]
        for given in forms:
            assert not http_status(server.state.http_port, given, http_header[1]).startswith(b"2")
            assert grpc_status(server.state.grpc_port, b"triton-grpc-protocol-" + given, value) != b"0"
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            client.generate(1)


@needs_root
def test_a_key_that_was_given_is_hidden_from_other_users_and_opens_management(bundle: Bundle) -> None:
    with TritonServer(bundle.folder, exit_seconds=0, admin_key="the-key-of-this-test") as server:
        shown = seen_by_another_user(server.state.pid)
        assert b"the-key" not in shown
        assert b"troika-admin=********************" in shown
        for key, right in ((b"the-key-of-this-test", True), (b"*" * 20, False)):
            assert http_status(server.state.http_port, b"troika-admin", key).startswith(b"2") == right
            name = b"triton-grpc-protocol-troika-admin"
            assert (grpc_status(server.state.grpc_port, name, key) == b"0") == right


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(bundle: Bundle, key: str) -> None:
    with pytest.raises(ParameterError, match="admin key must be"):
        TritonServer(bundle.folder, admin_key=key)


@pytest.mark.parametrize("address", ["::1", "::", "[::1]", "localhost", ""])
def test_an_address_that_a_server_cannot_listen_on_is_refused(bundle: Bundle, address: str) -> None:
    with pytest.raises(ParameterError, match="address must be an IPv4 address"):
        TritonServer(bundle.folder, address=address)


def test_triton_may_open_as_many_files_as_the_host_allows(bundle: Bundle) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 400), hard))
    try:
        with TritonServer(bundle.folder, exit_seconds=0) as server:
            of_triton = psutil.Process(server.state.pid).rlimit(psutil.RLIMIT_NOFILE)
            connections = []
            try:
                address = ("127.0.0.1", server.state.http_port)
                connections.extend(socket.create_connection(address) for _ in range(300))
                with Client(f"127.0.0.1:{server.state.http_port}", "http", model="tiny") as client:
                    client.generate(1)
            finally:
                for connection in connections:
                    connection.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert of_triton[0] == (2**20 if hard == resource.RLIM_INFINITY else min(hard, 2**20))


def test_a_log_is_kept_from_filling_the_disk(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    line = b"%08d accept failed: too many open files\n"
    with LogLimit(log, 10_000), log.open("ab", buffering=0) as file:
        for number in range(2000):
            file.write(line % number)
            if number % 300 == 299:
                wait_until(lambda: log.stat().st_size < 10_000)
        file.write(b"the last line\n")
    assert log.read_bytes().endswith(b"the last line\n")
    assert not log.read_bytes().startswith(b"\0")  # as of a file that is written on where it was
    assert aside(log).stat().st_size <= 10_000


def test_the_log_of_a_server_is_limited(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troika.serving.triton.LogLimit", partial(LogLimit, max_bytes=2000))
    log = tmp_path / "log"
    arguments = ["--log-verbose=1"]
    with TritonServer(bundle.folder, exit_seconds=0, log_file=log, arguments=arguments) as server:
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            for seed in range(50):
                client.generate(1, seed=seed)
        wait_until(lambda: aside(log).exists() and log.stat().st_size <= 2000)


SERVE = """
import sys
from functools import partial
from pathlib import Path
from troika.serving.triton import TritonServer, stop_on_signals
bundle, state_file = map(Path, sys.argv[1:3])
with stop_on_signals(), TritonServer(bundle, state_file=state_file, exit_seconds=600) as server:
    print(server.state.pid, flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)
"""


def is_stopped(pid: int) -> bool:
    """Whether none of a process's threads runs any more."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)


def is_asked_to_end(pid: int) -> bool:
    """Whether SIGTERM waits for a process that does nothing."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_what_hangs_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, second: signal.Signals
) -> None:
    state_file = tmp_path / "state.json"
    command = ["env", "--default-signal=INT", sys.executable, "-c", SERVE, str(bundle.folder), str(state_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # It hangs: it does not even end when it is asked to.
        wait_until(lambda: is_stopped(pid))
        try:
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "stopping\n"
            wait_until(lambda: is_asked_to_end(pid))
            assert read_state(state_file) is not None  # As long as it runs, it can be found.
            process.send_signal(second)
            process.wait(60)
        finally:
            process.kill()
            for left in psutil.process_iter():
                if left.pid == pid:
                    left.kill()
    assert not psutil.pid_exists(pid)
    assert not state_file.exists()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGKILL])
def test_the_signal_that_ended_triton_is_named(bundle: Bundle, tmp_path: Path, number: signal.Signals) -> None:
    with (
        pytest.raises(ServerError, match=f"Triton stopped by itself, by {number.name}, "),
        TritonServer(bundle.folder, exit_seconds=0, log_file=tmp_path / "log") as server,
    ):
        os.kill(server.state.pid, number)
        server.wait()


def test_how_triton_ended_while_it_started_is_named(bundle: Bundle, tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    for script, words in (("exit 7", "with exit status 7"), ("kill -SEGV $$", "by SIGSEGV")):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(stat.S_IRWXU)
        with pytest.raises(ServerError, match=f"cannot serve tiny, it ended {words}"):
            TritonServer(bundle.folder, tritonserver=program, log_file=tmp_path / "log").__enter__()


@pytest.mark.parametrize("name", ["with blanks", "quote's", "dollar$HOME", "semicolon;x"])
def test_a_temporary_folder_of_any_name_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    served = tiny_bundle(folder / "my bundle")
    with (
        TritonServer(served.folder, exit_seconds=0) as server,
        Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client,
    ):
        client.generate(1)


def test_where_no_temporary_folder_will_do_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "with blanks"))
    monkeypatch.setattr(triton_process, "_PLAIN_FOLDERS", ())
    with pytest.raises(ServerError, match=r"with blanks.*set TMPDIR"):
        triton_process.temporary_root()


def test_the_image_is_asked_for_its_health_on_the_port_that_it_serves_on(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STATE_FILE", tmp_path / "state.json")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert health.main() == 1
    with TritonServer(bundle.folder, exit_seconds=0, state_file=tmp_path / "state.json") as server:
        assert health.main() == 0
        os.kill(server.state.pid, signal.SIGSTOP)
        assert health.main() == 1
        os.kill(server.state.pid, signal.SIGCONT)
    assert health.main() == 1


def test_the_container_shows_what_is_written_after_the_log_was_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    steps = iter([lambda: log.write_text("x" * 200_000), lambda: log.write_text("afterwards"), None])

    def sleep(_: float) -> None:
        step = next(steps)
        if step is None:
            raise InterruptedError
        step()

    log.write_text("before")
    monkeypatch.setattr(container.time, "sleep", sleep)
    with pytest.raises(InterruptedError):
        container._show(log)
    said = capsys.readouterr().out
    assert said.startswith("before")
    assert said.endswith("afterwards")
    assert re.search(r"\n\.\.\. \d+ characters left out \.\.\.\n", said)
    assert len(said) < 70_000
