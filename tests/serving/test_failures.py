"""What breaks under a running server, or while it starts: each ends in a clear state, and nothing is left."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tiny_bundle import expected_images, tiny_bundle

from troika.errors import ServerError, TroikaError, UnreachableError
from troika.releases.bundle import Bundle
from troika.releases.pointer import ensure_local_remote, release
from troika.releases.store import fetch, publish
from troika.serving.client import Client
from troika.serving.triton import TritonServer, read_state, serve_release


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def stubs(server: TritonServer) -> list[psutil.Process]:
    return psutil.Process(server.state.pid).children(recursive=True)


def test_a_killed_server_is_noticed_by_clients_and_by_who_waits(bundle: Bundle, tmp_path: Path) -> None:
    outcomes: list[BaseException | None] = []
    state_file = tmp_path / "state.json"

    def ask_until_it_fails(port: int) -> None:
        with Client(f"127.0.0.1:{port}", model="tiny", timeout=5, retries=0) as client:
            try:
                for seed in range(10**6):
                    client.generate(1, seed=seed)
            except TroikaError as error:
                outcomes.append(error)

    with pytest.raises(ServerError, match="stopped by itself"), TritonServer(
        bundle.folder, exit_seconds=0, state_file=state_file
    ) as server:  # fmt: skip
        children = stubs(server)
        threads = [threading.Thread(target=ask_until_it_fails, args=(server.state.grpc_port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        os.kill(server.state.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        server.wait()
    assert [type(error) for error in outcomes] == [UnreachableError] * 4
    assert read_state(state_file) is None
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.mark.parametrize("which", [[0], [0, 1]])
def test_a_killed_model_process_ends_the_server(bundle: Bundle, which: list[int]) -> None:
    """Triton itself would go on, call itself ready, and answer with errors for ever: the control in the middle."""
    with pytest.raises(ServerError, match=r"model process \d+ of Triton has died"), TritonServer(
        bundle.folder, exit_seconds=0
    ) as server:  # fmt: skip
        processes = stubs(server)
        for number in which:
            processes[number].kill()
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny", retries=0) as client:
            failures = 0
            for seed in range(6):
                try:
                    client.generate(1, seed=seed)
                except ServerError:
                    failures += 1
        assert failures >= 1
        server.wait()
    assert not psutil.pid_exists(server.state.pid)


def test_a_healthy_server_goes_on_waiting(bundle: Bundle) -> None:
    with ThreadPoolExecutor(1) as pool:
        with TritonServer(bundle.folder, exit_seconds=0) as server:
            waiting = pool.submit(server.wait)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
        assert isinstance(waiting.exception(timeout=60), ServerError)


def test_a_server_that_was_stopped_and_has_no_log_any_more_ends_the_waiting(bundle: Bundle) -> None:
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        pass
    assert not Path(server.state.log).exists()
    with pytest.raises(ServerError, match="stopped from elsewhere"):
        server.wait()


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_half_bundle(bundle: Bundle, tmp_path: Path) -> None:
    publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, tmp_path / "store")
    with small_disk(tmp_path / "small", 12) as disk:
        with pytest.raises(TroikaError, match="No space left on device"):
            fetch(tmp_path / "store", "tiny", bundle.digest, disk / "target")
        assert list(disk.iterdir()) == []
        with pytest.raises(TroikaError, match="No space left on device"):
            publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, disk / "store")
        with pytest.raises(TroikaError, match="not complete"):
            fetch(disk / "store", "tiny", bundle.digest, tmp_path / "target")
    with small_disk(tmp_path / "large", 4096) as disk:  # The control: with room it works.
        assert publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, disk / "store").created
        fetch(disk / "store", "tiny", bundle.digest, disk / "target")


def test_a_full_disk_for_the_state_stops_the_start(bundle: Bundle, tmp_path: Path) -> None:
    def tritons() -> set[int]:
        family = psutil.Process().children(recursive=True)
        return {process.pid for process in family if process.name() == "tritonserver"}

    before = tritons()
    with small_disk(tmp_path / "small", 4) as disk:
        (disk / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(TroikaError, match="No space left on device"), TritonServer(
            bundle.folder, exit_seconds=0, state_file=disk / "state.json"
        ):  # fmt: skip
            pass
    assert tritons() == before


SERVE = """
import sys
from pathlib import Path
from troika.errors import TroikaError
from troika.serving.triton import TritonServer
try:
    with TritonServer(Path(sys.argv[1]), exit_seconds=0, start_seconds=30):
        print("served")
except TroikaError as error:
    print(f"error: {error}")
"""


@pytest.mark.parametrize(("size", "said"), [("64k", "error: Triton cannot serve tiny"), ("64m", "served")])
def test_shared_memory_that_is_too_small_is_a_clear_error(bundle: Bundle, size: str, said: str) -> None:
    """As in a pod whose /dev/shm nobody has set; 64 MB, which containers have by default, are enough."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", SERVE, str(bundle.folder)]
    done = subprocess.run(inside, check=False, capture_output=True, text=True, timeout=60)
    if "permission denied" in done.stderr.lower():
        pytest.skip("mounting is not permitted here")
    assert done.stdout.startswith(said), done.stdout + done.stderr
    if said != "served":
        assert "shared memory" in done.stdout


def test_what_is_served_does_not_change_with_the_files(bundle: Bundle) -> None:
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        for path in sorted(bundle.folder.rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            made = client.generate(5, labels=1)
        assert (made.images == expected_images(range(5), [1] * 5)).all()
        assert made.model_digest == bundle.digest


def test_two_servers_may_share_a_cache(bundle: Bundle, tmp_path: Path) -> None:
    entry = publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, tmp_path / "store")
    remote = ensure_local_remote(tmp_path / "remote.git")
    release(remote, "local", entry, "sha256:" + "e" * 64)

    def serve(_: int) -> str:
        with (
            serve_release(remote, "local", tmp_path / "cache", exit_seconds=0) as server,
            Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client,
        ):
            return client.generate(1).model_digest

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(serve, range(3))) == {bundle.digest}


def test_a_store_that_is_gone_does_not_touch_what_runs_and_stops_what_starts(
    bundle: Bundle, tmp_path: Path
) -> None:
    entry = publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, tmp_path / "store")
    remote = ensure_local_remote(tmp_path / "remote.git")
    release(remote, "local", entry, "sha256:" + "e" * 64)
    with serve_release(remote, "local", tmp_path / "cache", exit_seconds=0) as server:
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            assert client.generate(1).model_digest == bundle.digest
        with pytest.raises(TroikaError, match="is not in the model store"):
            serve_release(remote, "local", tmp_path / "new-pod", exit_seconds=0)
        assert not list((tmp_path / "new-pod").glob("tiny/sha256-*/manifest.json"))
        (tmp_path / "elsewhere").rename(tmp_path / "store")
        with serve_release(remote, "local", tmp_path / "new-pod", exit_seconds=0) as other:
            assert other.state.digest == bundle.digest


def test_git_that_is_gone_does_not_touch_what_runs(bundle: Bundle, tmp_path: Path) -> None:
    entry = publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, tmp_path / "store")
    remote = ensure_local_remote(tmp_path / "remote.git")
    release(remote, "local", entry, "sha256:" + "e" * 64)
    with serve_release(remote, "local", tmp_path / "cache", exit_seconds=0) as server:
        shutil.rmtree(remote)
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            assert client.generate(1).model_digest == bundle.digest
        with pytest.raises(TroikaError, match=r"remote\.git"):
            serve_release(remote, "local", tmp_path / "cache", exit_seconds=0)
