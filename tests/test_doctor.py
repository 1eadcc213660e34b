"""`troika doctor` on real things: a store, git daemons that do and do not take pushes, Triton, DVC."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from quick import REPOSITORY, plain_environment

from troika.doctor import Surroundings, examine
from troika.doctor_kubeflow import Cluster, Finding
from troika.releases.pointer import ensure_local_remote
from troika.serving.triton import TritonServer
from troika.serving.triton_process import choose_ports

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))

from tiny_bundle import tiny_bundle


def found(where: Surroundings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(where)}


def nothing() -> Surroundings:
    return Surroundings(None, None, "main")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return ensure_local_remote(tmp_path / "git" / "releases.git")


@contextmanager
def git_daemon(folder: Path, *options: str) -> Iterator[str]:
    port, *_ = choose_ports((0, 0, 0))
    daemon = subprocess.Popen(
        [
            "git",
            "daemon",
            "--export-all",
            f"--base-path={folder}",
            f"--port={port}",
            "--listen=127.0.0.1",
            *options,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"git://127.0.0.1:{port}/releases.git"
        deadline = time.monotonic() + 20
        while subprocess.run(["git", "ls-remote", url], check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        daemon.terminate()
        daemon.wait()


def test_a_store_and_a_repository_in_order_pass_and_are_left_as_they_were(tmp_path: Path, remote: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    head = subprocess.check_output(["git", "-C", str(remote), "rev-parse", "main"])
    findings = found(Surroundings(store.as_uri(), str(remote), "main"))
    assert findings["model store"].outcome == "pass"
    assert findings["release repository"].outcome == "pass"
    assert not [path for path in store.rglob("*") if path.is_file()]
    assert subprocess.check_output(["git", "-C", str(remote), "rev-parse", "main"]) == head


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert found(Surroundings((tmp_path / "file").as_uri(), None, "main"))["model store"].outcome == "fail"


def test_the_right_to_push_is_told_from_the_right_to_read(remote: Path) -> None:
    with git_daemon(remote.parent) as url:
        reading = found(Surroundings(None, url, "main"))["release repository"]
    with git_daemon(remote.parent, "--enable=receive-pack") as url:
        writing = found(Surroundings(None, url, "main"))["release repository"]
    assert (reading.outcome, writing.outcome) == ("fail", "pass"), (reading, writing)
    assert "git said" in reading.said


def test_a_repository_that_is_not_there_fails(tmp_path: Path) -> None:
    assert found(Surroundings(None, str(tmp_path / "none"), "main"))["release repository"].outcome == "fail"


def test_a_service_that_does_not_answer_fails_and_hides_no_other_check() -> None:
    findings = found(Surroundings(None, None, "main", Cluster("http://127.0.0.1:9"), "127.0.0.1:9"))
    assert (findings["Kubeflow"].outcome, findings["Triton"].outcome) == ("fail", "fail")
    assert findings["shared memory"].outcome in {"pass", "warn"}


def test_triton_is_ready_and_closed(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        finding = found(Surroundings(None, None, "main", triton=f"127.0.0.1:{server.state.http_port}"))["Triton"]
    assert finding.outcome == "warn"
    assert "Triton 2.51.0 has known faults" in finding.said


def test_little_shared_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("troika.doctor._SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("troika.doctor._ENOUGH_SHARED_MEMORY", 0)
    assert found(nothing())["shared memory"].outcome == "pass"
    monkeypatch.setattr("troika.doctor._ENOUGH_SHARED_MEMORY", 2**60)
    assert found(nothing())["shared memory"].outcome == "warn"


def test_a_data_repository_with_and_without_a_remote(tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True, capture_output=True)

    dvc("init", "--no-scm")
    where = Surroundings(None, None, "main", repository=tmp_path)
    assert found(where)["data remote"].outcome == "warn"
    dvc("remote", "add", "-d", "mine", str(tmp_path / "remote"))
    assert found(where)["data remote"].outcome == "pass"
    assert list((tmp_path / "remote").iterdir()) == []
    shutil.rmtree(tmp_path / "remote")
    (tmp_path / "remote").write_text("not a folder")
    assert found(where)["data remote"].outcome == "fail"


def test_the_command_says_it_in_lines_and_by_its_exit_status(tmp_path: Path) -> None:
    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "troika.cli", "doctor", "--home", str(tmp_path), *arguments],
            check=False, cwd=REPOSITORY, env=plain_environment(), capture_output=True, text=True,
        )  # fmt: skip

    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    assert "pass  model store " in done.stdout
    (tmp_path / "file").write_text("not a folder")
    done = doctor("--home", str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "fail  release repository" in done.stdout
    assert "warn  Triton" in done.stdout  # nothing is left out
    done = doctor("--triton", "127.0.0.1:9")
    assert done.returncode == 1
    assert "fail  Triton " in done.stdout
    assert "is this its HTTP port?" in done.stdout
