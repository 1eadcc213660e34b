"""Release under fire: the program that publishes, fetches or releases is killed, at every step it has.

As in test_under_fire.py, users of the old release must not notice, which the fixture `scene` asserts.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_at_step import NEVER, Victim
from production import Scene, git, promote
from s3_server import s3_server

from troika.errors import ReleaseError, StoreError
from troika.releases.bundle import Bundle
from troika.releases.store import fetch, publish, verify_entry


def every_step(action: str, scene: Scene, argument: Callable[[int], dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Run an action again and again, each time killed one step later, until it comes to its end."""
    with Victim(action, scene.folder) as victim:
        for number in itertools.count(1):
            killed, said = victim.run(number, **argument(number))
            if not killed:
                assert not said.endswith("Error"), said
                return
            yield number, said


def is_complete(store: str | Path, bundle: Bundle) -> bool:
    """Whether a pod would take it; else it must say that the entry is not complete."""
    try:
        verify_entry(store, bundle.model, bundle.digest)
    except StoreError as error:
        words = str(error)
    else:
        return True
    assert "not complete" in words
    return False


def test_a_kill_at_every_step_of_publish(scene: Scene) -> None:
    """Nothing or all of the new model is in the store, and publishing again completes it."""
    bundle, states = scene.new_bundle, list[bool]()

    def store(number: int) -> Path:
        return scene.folder / f"store-{number}"

    def argument(number: int) -> dict[str, Any]:
        shutil.copytree(scene.store, store(number))
        return {"folder": str(bundle.folder), "store": str(store(number))}

    for number, _ in every_step("publish", scene, argument):
        states.append(is_complete(store(number), bundle))
        assert publish(bundle, promote(bundle), store(number)).created is not states[-1]
        verify_entry(store(number), "tiny", bundle.digest)
        verify_entry(store(number), "tiny", scene.old.digest)
        shutil.rmtree(store(number))
    assert len(states) >= 40
    # Once, and for good, it becomes complete: by the link that puts the manifest in place.
    assert states == sorted(states)
    assert set(states) == {False, True}


def test_a_kill_before_every_write_of_publish_to_s3(scene: Scene) -> None:
    bundle, states = scene.new_bundle, list[bool]()
    with s3_server():

        def argument(number: int) -> dict[str, Any]:
            return {"folder": str(bundle.folder), "store": f"s3://models/{number}"}

        for number, _said in every_step("publish", scene, argument):
            store = f"s3://models/{number}"
            states.append(is_complete(store, bundle))
            assert publish(bundle, promote(bundle), store).created is not states[-1]
        fetch(store, "tiny", bundle.digest, scene.folder / "target")
    assert len(states) >= 12
    assert states == sorted(states)


def test_a_kill_at_every_step_of_a_pods_fetch(scene: Scene) -> None:
    """Triton is given a whole bundle or none; the container that is started again completes it."""
    scene.publish_new()
    digest, steps = scene.new_bundle.digest, 0

    def target(number: int) -> Path:
        return scene.folder / f"volume-{number}" / "bundle"

    def argument(number: int) -> dict[str, Any]:
        target(number).parent.mkdir()
        return {"store": str(scene.store), "digest": digest, "target": str(target(number))}

    with Victim("fetch", scene.folder) as again:
        for number, _ in every_step("fetch", scene, argument):
            if target(number).exists():
                Bundle.open(target(number), digest)
            assert again.run(NEVER, **{**argument(NEVER + number), "target": str(target(number))}) == (False, "")
            Bundle.open(target(number), digest)
            steps += 1
    assert steps >= 20


@pytest.mark.parametrize("action", ["release", "rollback"])
def test_a_kill_at_every_git_command_of(action: str, scene: Scene) -> None:
    """Git says what it said before, and doing it again does it once."""
    scene.publish_new()
    if action == "rollback":
        scene.release_new()
    before, commands = git(scene.remote, "rev-parse", "main"), list[str]()
    wanted = scene.new_bundle.digest if action == "release" else scene.old.digest

    def argument(number: int) -> dict[str, Any]:
        # The last round, in which nobody is killed, must find what the first one found.
        assert git(scene.remote, "rev-parse", "main") == before
        more = {"digest": wanted, "store": scene.store.as_uri()} if action == "release" else {}
        return {"remote": str(scene.remote), **more}

    commands = [said.split()[1] for _, said in every_step(action, scene, argument)]
    assert {"init", "fetch", "commit-tree", "push"} <= set(commands)
    assert scene.released() == wanted
    assert len(git(scene.remote, "rev-list", f"{before.strip()}..main").split()) == 1
    git(scene.remote, "fsck", "--strict")


@pytest.mark.parametrize("hook", ["pre-receive", "update", "reference-transaction", "post-receive"])
@pytest.mark.parametrize("dies", ["the client", "client and server"])
def test_a_kill_while_git_receives_the_push(hook: str, dies: str, scene: Scene) -> None:
    """The branch has moved or it has not; releasing again ends with one commit."""
    scene.publish_new()
    before = git(scene.remote, "rev-parse", "main").strip()
    file = scene.remote / "hooks" / hook
    file.parent.mkdir(exist_ok=True)
    kill = 'kill -KILL "$VICTIM"' if dies == "the client" else "kill -KILL 0"
    only = '[ "$1" = prepared ] || exit 0\n' if hook == "reference-transaction" else ""
    file.write_text(f"#!/bin/sh\n{only}touch {scene.folder}/reached\n{kill}\nsleep 0.2\n")
    file.chmod(0o755)
    with Victim("release", scene.folder) as victim:
        killed, _ = victim.run(
            NEVER, remote=str(scene.remote), digest=scene.new_bundle.digest, store=scene.store.as_uri()
        )
    assert killed
    assert (scene.folder / "reached").exists()
    file.unlink()
    assert scene.released() in {scene.old.digest, scene.new_bundle.digest}
    if dies == "client and server" and hook == "reference-transaction":
        # Git's own lock: no program may take it away, so the release says whose it is.
        with pytest.raises(ReleaseError, match=r"(?s)\.lock.*remove the file manually"):
            scene.release_new()
        for lock in scene.remote.rglob("*.lock"):
            lock.unlink()
    scene.release_new()
    assert scene.released() == scene.new_bundle.digest
    assert len(git(scene.remote, "rev-list", f"{before}..main").split()) == 1
    git(scene.remote, "fsck", "--strict")
