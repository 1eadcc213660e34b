"""Do something in a process that is killed at its n-th step: `Victim(action)`, then `victim.run(n, argument)`.

A step is what the action asks of the world. In a folder: to make a folder, to open a file for writing, to rename,
link or remove one; in an object store: to write or remove an object; on Git: to start git. Before the n-th one the
process gets SIGKILL, and its whole group with it.
The module is the program too, and imports what the actions need once: each run is a fork of it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

NEVER = 10**9
_FILE_EVENTS = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"}


class Victim:
    """The program that forks; use in a `with` block."""

    def __init__(self, action: str, folder: Path) -> None:
        """`folder`: where what a killed process leaves in its temporary folder may lie."""
        self._action, self._folder = action, folder

    def __enter__(self) -> Self:
        command, environment = (
            [sys.executable, __file__, self._action],
            {**os.environ, "TMPDIR": str(self._folder)},
        )
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()

    def run(self, step: int, **argument: Any) -> tuple[bool, str]:
        """Whether it was killed, and at what; else the action's last words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"step": step, "argument": argument}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["killed"], answer["said"]


def publish_bundle(folder: str, store: str) -> str:
    """Into a store of any kind."""
    from troika.releases.bundle import Bundle
    from troika.releases.store import publish

    bundle = Bundle.open(Path(folder))
    return str(publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, store).created)


def release_model(remote: str, digest: str, store: str) -> str:
    """To production."""
    from troika.releases.pointer import release
    from troika.releases.store import PublishedModel

    entry = PublishedModel("tiny", digest, store, created=False)
    return str(release(remote, "production", entry, "sha256:" + "e" * 64)[2])


def roll_back(remote: str) -> str:
    """Production, to the release before."""
    from troika.releases.pointer import rollback

    return str(rollback(remote, "production")[0].version)


def fetch_bundle(store: str, digest: str, target: str) -> str:
    """As before Triton in a pod."""
    from troika.serving.model_fetch import fetch_model

    fetch_model(store, "tiny", digest, Path(target))
    return ""


ACTIONS: dict[str, Callable[..., str]] = {
    "publish": publish_bundle, "release": release_model, "rollback": roll_back, "fetch": fetch_bundle,
}  # fmt: skip


def main() -> None:
    """Answer each line of standard input."""
    action = ACTIONS[sys.argv[1]]
    for module in ("troika.releases.pointer", "troika.serving.model_fetch", "s3fs"):
        __import__(module)
    for line in sys.stdin:
        task = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            _run(action, task["step"], task["argument"], writer)
        os.close(writer)
        with os.fdopen(reader) as said:
            words = said.read().splitlines()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"killed": killed, "said": words[-1] if words else ""}), flush=True)


def _run(action: Callable[..., str], last_step: int, argument: dict[str, Any], writer: int) -> None:
    steps, in_folders = 0, action is fetch_bundle or "://" not in argument.get("store", "://")

    def step(what: str) -> None:
        nonlocal steps
        steps += 1
        if steps == last_step:
            os.write(writer, f"{what}\n".encode())
            os.killpg(0, signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            step(" ".join(word for word in arguments[1] if word.isalpha() or "-" in word[1:]))
        elif not (in_folders and arguments and isinstance(arguments[0], str)):
            pass  # what it does in its temporary folder does not matter
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            step(f"write {arguments[0]}")
        elif event in _FILE_EVENTS and not (event == "os.mkdir" and Path(arguments[0]).is_dir()):
            step(f"{event} {arguments[0]}")

    _count_calls_of_s3(step)
    os.environ["VICTIM"] = str(os.getpid())  # for hooks of a Git server
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.addaudithook(watch)
    try:
        said = action(**argument)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".replace("\n", " ")
    os.write(writer, f"{said}\n".encode())
    os._exit(0)


def _count_calls_of_s3(step: Callable[[str], None]) -> None:
    from aiobotocore.client import AioBaseClient

    call = AioBaseClient._make_api_call

    async def counted(self: Any, name: str, parameters: Any) -> Any:
        if name.startswith(("Put", "Delete")):
            step(name)
        return await call(self, name, parameters)

    AioBaseClient._make_api_call = counted


if __name__ == "__main__":
    main()
