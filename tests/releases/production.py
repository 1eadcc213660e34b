"""A small production for tests to shoot at: a store, a Git remote, and a real Triton that users never stop asking.

What a scenario does to store and remote must not reach those users; `Production.scenario` asserts it of each.
"""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from tiny_bundle import expected_images, tiny_bundle

from troika.errors import TroikaError
from troika.releases.bundle import Bundle
from troika.releases.pointer import ensure_local_remote, read_release, release
from troika.releases.store import PublishedModel, publish
from troika.serving.client import Client
from troika.serving.triton import TritonServer, serve_release

ENVIRONMENT = "production"
VERDICT = "sha256:" + "e" * 64
_SECONDS_BETWEEN_QUESTIONS = 0.02
_ANSWERS_AFTERWARDS = 3


def git(folder: Path, *arguments: str) -> str:
    """What git says, as a person would use it there."""
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def promote(bundle: Bundle) -> dict[str, Any]:
    """The verdict that lets it into a store."""
    return {"decision": "promote", "bundle_digest": bundle.digest, "reasons": []}


class Users:
    """Ask a Triton for its golden images, and for fresh ones, all the time; note whatever is not as promised."""

    def __init__(self, server: TritonServer, bundle: Bundle) -> None:
        self.answers, self.complaints = 0, list[str]()
        self._port, self._digest = server.state.grpc_port, bundle.digest
        with np.load(bundle.folder / "golden.npz") as golden:
            self._golden = [
                (int(seed), int(label), image)
                for seed, label, image in zip(
                    golden["seed"][:, 0], golden["label"][:, 0], golden["image"], strict=True
                )
            ]
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with Client(f"127.0.0.1:{self._port}", model="tiny", timeout=10, retries=0) as client:
            while not self._stop.wait(_SECONDS_BETWEEN_QUESTIONS):
                number = self.answers + len(self.complaints)
                seed, label, image = self._golden[number % len(self._golden)]
                fresh = 1000 + number
                try:
                    made = client.generate(1, seed=seed, labels=label)
                    other = client.generate(1, seed=fresh, labels=7)
                except TroikaError as error:
                    self.complaints.append(str(error))
                    continue
                if {made.model_digest, other.model_digest} != {self._digest}:
                    self.complaints.append(f"answered by {made.model_digest} and {other.model_digest}")
                elif (made.images[0] != image).any() or (other.images != expected_images([fresh], [7])).any():
                    self.complaints.append(f"other images than promised for seed {seed} or {fresh}")
                else:
                    self.answers += 1

    def assert_served(self, answers_before: int) -> None:
        """Assert that there were good answers since then, that there still are, and never another."""
        answers_now, deadline = self.answers, time.monotonic() + 30
        assert not self.complaints, self.complaints[:3]
        assert answers_now > answers_before or answers_before == 0, "nobody was answered meanwhile"
        while self.answers < answers_now + _ANSWERS_AFTERWARDS:
            assert not self.complaints, self.complaints[:3]
            assert time.monotonic() < deadline, "nobody is answered any more"
            time.sleep(0.01)


@dataclass(frozen=True)
class Scene:
    """Store and Git remote of one scenario, with the old release in both; the new one is in neither."""

    folder: Path
    store: Path
    remote: Path
    old: PublishedModel
    new_bundle: Bundle

    def publish_new(self) -> PublishedModel:
        """Bring the new model into the store."""
        return publish(self.new_bundle, promote(self.new_bundle), self.store)

    def release_new(self) -> tuple[Any, str, bool]:
        """Point Git to the new model, which must be in the store."""
        entry = PublishedModel("tiny", self.new_bundle.digest, self.store.as_uri(), created=False)
        return release(self.remote, ENVIRONMENT, entry, VERDICT)

    def released(self) -> str:
        """The digest in Git."""
        current = read_release(self.remote, ENVIRONMENT)
        assert current is not None
        return current.digest

    def new_pod(self) -> TritonServer:
        """What a pod that starts now would serve: everything is fetched and checked, Triton is not started yet."""
        number = sum(1 for _ in self.folder.glob("pod-*"))
        return serve_release(self.remote, ENVIRONMENT, self.folder / f"pod-{number}", exit_seconds=0)

    def entry(self, digest: str) -> Path:
        """The folder of a model in the store."""
        return self.store / "tiny" / digest.replace(":", "-")


class Production:
    """The old release, served, and the new one, ready to be published."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._cleanup = folder, ExitStack()
        self.old, self.new = (tiny_bundle(folder / name, note=name) for name in ("old", "new"))

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            scene = self._scene(self._folder / "first")
            self.server = cleanup.enter_context(scene.new_pod())
            assert self.server.state.digest == self.old.digest
            self.users = cleanup.enter_context(Users(self.server, self.old))
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._cleanup.__exit__(*error)

    @contextmanager
    def scenario(self, folder: Path) -> Iterator[Scene]:
        """A scene of its own; at its end the users of the old release must have noticed nothing."""
        scene = self._scene(folder)
        before = self.users.answers
        yield scene
        self.users.assert_served(before)

    def _scene(self, folder: Path) -> Scene:
        folder.mkdir(exist_ok=True)
        remote = ensure_local_remote(folder / "remote.git")
        old = publish(self.old, promote(self.old), folder / "store")
        release(remote, ENVIRONMENT, old, VERDICT)
        return Scene(folder, folder / "store", remote, old, self.new)
