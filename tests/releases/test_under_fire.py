"""Release under fire: races, damaged files, a store or a Git server that fails, models that do not work.

Every scenario has a `scene` (production.py): while it lasts, and after it, users of a real Triton that serves
the old release are answered with its golden images. That is asserted at its end. Crashes are in
test_under_fire_crashes.py; docs/release-under-fire.md lists all scenarios.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from production import ENVIRONMENT, VERDICT, Production, Scene, Users, git, promote
from s3_server import s3_server
from tiny_bundle import tiny_bundle, tiny_spec, unsealed

from components.publish_model import publish_model
from components.release_model import ReleaseModelParams, release_model
from troika.errors import ReleaseError, ServerError, StoreError, SupersededError, TroikaError
from troika.releases.bundle import Bundle, seal
from troika.releases.git import Repository
from troika.releases.pointer import read_history, release, release_file, rollback
from troika.releases.store import PublishedModel, fetch, publish
from troika.serving.client import Client
from troika.serving.model_fetch import fetch_model
from troika.serving.triton import TritonServer

RELEASE_PARAMS = ReleaseModelParams(branch="main", attempts=5, golden_test=True, replace=False)


def release_by_the_step(scene: Scene, bundle: Bundle) -> None:
    """Publish and release as the pipeline does, with the test on a real Triton."""
    verdict = scene.folder / "verdict.json"
    reference = scene.folder / "reference.npz"
    reference.write_bytes(b"what it was measured against")
    measured_against = f"sha256:{hashlib.sha256(reference.read_bytes()).hexdigest()}"
    verdict.write_text(json.dumps({**promote(bundle), "reference_sha256": measured_against}))
    publish_model(bundle.folder, verdict, reference, scene.folder / "published.json", str(scene.store))
    release_model(
        scene.folder / "published.json",
        scene.folder / "release.json",
        str(scene.remote),
        ENVIRONMENT,
        RELEASE_PARAMS,
    )


# Races


def race(scene: Scene, releases: int = 20) -> None:
    """Many releases at once, and a colleague who commits another file: nothing is lost, the history is linear."""
    start = threading.Barrier(releases + 1)

    def one(number: int) -> Any:
        entry = PublishedModel("tiny", f"sha256:{number:064x}", "file:///store", created=True)
        start.wait()
        try:
            return release(scene.remote, ENVIRONMENT, entry, VERDICT, attempts=50)
        except SupersededError as error:
            return error

    def colleague() -> str:
        clone = scene.folder / "colleague"
        git(scene.folder, "clone", "--quiet", str(scene.remote), str(clone))
        (clone / "other.txt").write_text("hello\n")
        git(clone, "add", ".")
        git(clone, "commit", "--quiet", "--message", "Other work")
        start.wait()
        while True:
            try:
                git(clone, "push", "--quiet")
                return git(clone, "rev-parse", "HEAD").strip()
            except subprocess.CalledProcessError:
                git(clone, "pull", "--quiet", "--rebase")

    with ThreadPoolExecutor(releases + 1) as pool:
        other = pool.submit(colleague)
        outcomes = list(pool.map(one, range(releases)))
    won = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    assert won
    assert len(won) + sum(isinstance(outcome, SupersededError) for outcome in outcomes) == releases
    history = read_history(scene.remote, ENVIRONMENT)
    assert {past.commit for past in history[:-1]} == {commit for _, commit, _ in won}
    assert [past.release.version for past in history] == list(range(len(won) + 1, 0, -1))
    for newer, older in itertools.pairwise(history):
        assert newer.release.previous_digest == older.release.digest
    commits = git(scene.remote, "rev-list", "main").split()
    assert other.result() in commits
    assert len(commits) == len(history) + 2  # the repository's first, and the colleague's
    assert not git(scene.remote, "rev-list", "--merges", "main")


@pytest.mark.parametrize("rounds", [range(first, first + 10) for first in range(0, 50, 10)], ids=str)
def test_twenty_racing_releases_make_one_linear_history(
    production: Production, tmp_path: Path, rounds: range
) -> None:
    for number in rounds:
        with production.scenario(tmp_path / str(number)) as scene:
            race(scene)
    git(scene.remote, "fsck", "--strict")


def test_without_compare_and_set_releases_are_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the race: the same with a push by force."""

    def push_by_force(self: Repository, commit: str) -> None:
        with suppress(ReleaseError):
            self.git("push", "--force", "--quiet", "--", str(scene.remote), f"{commit}:refs/heads/main")

    monkeypatch.setattr(Repository, "push", push_by_force)
    with pytest.raises(AssertionError):
        race(scene)


def test_publishers_of_one_model_at_once_make_one_entry_that_a_pod_takes(scene: Scene) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: scene.publish_new().created, range(8)))
    assert made.count(True) == 1
    scene.release_new()
    scene.new_pod()


# Files


def corrupt(scene: Scene, entry: Path) -> None:
    content = (entry / "golden.npz").read_bytes()
    replace(entry / "golden.npz", content[:-1] + bytes([content[-1] ^ 1]))


def truncate(scene: Scene, entry: Path) -> None:
    replace(entry / "golden.npz", (entry / "golden.npz").read_bytes()[:-1])


def lose(scene: Scene, entry: Path) -> None:
    (entry / "golden.npz").unlink()


def swap_two_files(scene: Scene, entry: Path) -> None:
    one, other = entry / "golden.npz", entry / "parity.json"
    contents = one.read_bytes(), other.read_bytes()
    replace(other, contents[0])
    replace(one, contents[1])


def take_another_models_graph(scene: Scene, entry: Path) -> None:
    (graph,) = entry.glob("graph_repository/*/1/model.onnx")
    other = tiny_bundle(scene.folder / "other", conditional=False, model="other")
    (foreign,) = other.folder.glob("graph_repository/*/1/model.onnx")
    assert foreign.read_bytes() != graph.read_bytes()
    replace(graph, foreign.read_bytes())


def take_the_other_models_manifest(scene: Scene, entry: Path) -> None:
    replace(entry / "manifest.json", (scene.entry(scene.old.digest) / "manifest.json").read_bytes())


def add_a_version(scene: Scene, entry: Path) -> None:
    (entry / "model_repository/tiny/2").mkdir()
    (entry / "model_repository/tiny/2/model.py").write_text("raise SystemExit\n")


def link_out(scene: Scene, entry: Path) -> None:
    (entry / "golden.npz").unlink()
    (entry / "golden.npz").symlink_to(scene.new_bundle.folder / "golden.npz")


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (corrupt, "golden.npz"),
        (truncate, "golden.npz"),
        (lose, "golden.npz"),
        (swap_two_files, r"golden\.npz|parity\.json"),
        (take_another_models_graph, "model.onnx"),
        (take_the_other_models_manifest, "manifest.json"),
        (add_a_version, "model_repository/tiny/2/model.py"),
        (link_out, "golden.npz"),
    ],
)
def test_a_damaged_file_in_the_store(damage: Callable[[Scene, Path], None], named: str, scene: Scene) -> None:
    """It is not released; where it is in Git already, new pods fail by its name, and start once it is repaired."""
    scene.publish_new()
    entry = scene.entry(scene.new_bundle.digest)
    shutil.copytree(entry, scene.folder / "whole")
    damage(scene, entry)
    with pytest.raises(StoreError, match=named):
        release_by_the_step(scene, scene.new_bundle)
    assert scene.released() == scene.old.digest
    scene.release_new()
    with pytest.raises(StoreError, match=named):
        scene.new_pod()
    shutil.rmtree(entry)
    shutil.copytree(scene.folder / "whole", entry)
    scene.new_pod()


def test_a_damaged_file_in_a_pods_volume(scene: Scene) -> None:
    """Triton is not started on it; the restarted container fetches it anew."""
    pod = scene.new_pod()
    (golden,) = (scene.folder / "pod-0").glob("tiny/*/golden.npz")
    golden.write_bytes(b"spoiled")
    with pytest.raises(TroikaError, match=r"golden\.npz"), pod:
        pass
    fetch_model(scene.store.as_uri(), "tiny", scene.old.digest, golden.parent)
    Bundle.open(golden.parent, scene.old.digest)


# Models that do not work


def spoil_the_graph(folder: Path) -> None:
    (graph,) = folder.glob("graph_repository/*/1/model.onnx")
    graph.write_bytes(b"no graph")


def spoil_the_golden_images(folder: Path) -> None:
    import numpy as np

    with np.load(folder / "golden.npz") as golden:
        arrays = {**golden}
    arrays["image"] = arrays["image"] + 2
    np.savez(folder / "golden.npz", **arrays)


@pytest.mark.parametrize(
    ("spoil", "words", "starts"),
    [
        (spoil_the_graph, "cannot serve tiny", False),
        (spoil_the_golden_images, "does not answer as promised", True),
    ],
)
def test_a_model_that_does_not_work(
    spoil: Callable[[Path], None], words: str, starts: bool, scene: Scene, tmp_path: Path
) -> None:
    """A real Triton finds out before the commit. Committed all the same, its pod never becomes ready."""
    folder = unsealed(tmp_path / "bad")
    spoil(folder)
    bad = Bundle.open(folder, seal(folder, "tiny", tiny_spec(True), {}))
    with pytest.raises(ServerError, match=words):
        release_by_the_step(scene, bad)
    assert scene.released() == scene.old.digest
    entry = PublishedModel("tiny", bad.digest, scene.store.as_uri(), created=False)
    release(scene.remote, ENVIRONMENT, entry, VERDICT)
    if not starts:
        with pytest.raises(ServerError, match="cannot serve tiny"), scene.new_pod():
            pass
    rollback(scene.remote, ENVIRONMENT)
    assert scene.released() == scene.old.digest


# The store fails


def test_the_store_is_gone_and_comes_back(scene: Scene) -> None:
    scene.publish_new()
    scene.release_new()
    away = scene.store.rename(scene.folder / "away")
    scene.store.write_text("a mount that has failed")
    for attempt in (scene.new_pod, lambda: release_by_the_step(scene, scene.new_bundle)):
        with pytest.raises(TroikaError, match="store"):
            attempt()
    scene.store.unlink()
    away.rename(scene.store)
    assert not scene.publish_new().created
    scene.new_pod()


def test_an_s3_store_stops_answering_in_the_middle_and_comes_back(scene: Scene) -> None:
    """At each of several moments: what was begun does not count, and is completed afterwards."""
    bundle = scene.new_bundle
    with s3_server() as server:
        for answers in (1, 7, 13):
            store = f"s3://models/after-{answers}"
            server.fail_after(answers)
            with pytest.raises(StoreError, match="is it up"):
                publish(bundle, promote(bundle), store)
            server.fail_after(float("inf"))
            with pytest.raises(StoreError, match="not complete"):
                fetch(store, "tiny", bundle.digest, scene.folder / "target")
            assert publish(bundle, promote(bundle), store).created
            fetch(store, "tiny", bundle.digest, scene.folder / "target")


# Git fails


def test_git_refuses(scene: Scene) -> None:
    scene.publish_new()
    hook = scene.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no releases on Fridays\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ReleaseError, match="no releases on Fridays"):
        scene.release_new()
    assert scene.released() == scene.old.digest
    hook.unlink()
    scene.release_new()
    assert scene.released() == scene.new_bundle.digest


def test_git_is_gone_and_comes_back(scene: Scene) -> None:
    scene.publish_new()
    away = scene.remote.rename(scene.folder / "away.git")
    for attempt in (scene.release_new, scene.new_pod):
        with pytest.raises(ReleaseError, match=r"remote\.git"):
            attempt()
    away.rename(scene.remote)
    assert scene.release_new()[2]
    scene.new_pod()


def test_a_damaged_pointer_stops_new_pods_by_name(scene: Scene) -> None:
    git(scene.folder, "clone", "--quiet", str(scene.remote), "clone")
    clone = scene.folder / "clone"
    (clone / release_file(ENVIRONMENT)).write_text("data: {digest: latest}\n")
    git(clone, "commit", "--quiet", "--all", "--message", "Spoil")
    git(clone, "push", "--quiet")
    for attempt in (scene.new_pod, scene.release_new):
        with pytest.raises(ReleaseError, match=r"release\.yaml.*digest"):
            attempt()
    git(clone, "revert", "--no-edit", "HEAD")
    git(clone, "push", "--quiet")
    scene.new_pod()


def test_a_release_is_superseded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While ours was on its way another model became current; ours must be judged against that one first."""
    scene.publish_new()
    push, other = Repository.push, PublishedModel("tiny", "sha256:" + "b" * 64, "file:///s", created=True)

    def overtaken(self: Repository, commit: str) -> str | None:
        monkeypatch.setattr(Repository, "push", push)
        release(scene.remote, ENVIRONMENT, other, VERDICT)
        return push(self, commit)

    monkeypatch.setattr(Repository, "push", overtaken)
    with pytest.raises(SupersededError, match=other.digest):
        scene.release_new()
    assert scene.released() == other.digest
    assert [past.release.version for past in read_history(scene.remote, ENVIRONMENT)] == [2, 1]


# Rollback


@pytest.mark.parametrize("by", ["troika", "git"])
def test_a_rollback_serves_the_old_release_again(by: str, scene: Scene) -> None:
    """A new Triton on the new release, then back; the pointer is what it was, byte by byte."""
    pointer = f"main:{release_file(ENVIRONMENT)}"
    before = git(scene.remote, "show", pointer)
    release_by_the_step(scene, scene.new_bundle)
    with scene.new_pod() as new, Client(f"127.0.0.1:{new.state.grpc_port}", model="tiny") as client:
        assert client.generate(1).model_digest == scene.new_bundle.digest
    if by == "troika":
        rollback(scene.remote, ENVIRONMENT)
    else:
        git(scene.folder, "clone", "--quiet", str(scene.remote), "clone")
        git(scene.folder / "clone", "revert", "--no-edit", "HEAD")
        git(scene.folder / "clone", "push", "--quiet")
    assert git(scene.remote, "show", pointer) == before
    with scene.new_pod() as back, Client(f"127.0.0.1:{back.state.grpc_port}", model="tiny") as client:
        assert client.generate(1).model_digest == scene.old.digest


# Controls of the assertion that all scenarios make


def test_users_of_a_server_that_dies_notice(production: Production, tmp_path: Path) -> None:
    with TritonServer(production.old.folder, exit_seconds=0) as server, Users(server, production.old) as users:
        users.assert_served(0)
        os.kill(server.state.pid, signal.SIGKILL)
        with pytest.raises(AssertionError):
            users.assert_served(users.answers)


def test_users_notice_another_model(production: Production, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", note="other")
    with (
        TritonServer(other.folder, exit_seconds=0) as server,
        Users(server, production.old) as users,
        pytest.raises(AssertionError, match="answered by"),
    ):
        users.assert_served(0)
