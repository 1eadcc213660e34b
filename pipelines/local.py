"""Run the pipeline on this machine, with KFP's local runner: the same graph and wrappers as on a cluster.

Steps whose code, parameters and inputs have not changed are not run again (KFP's local cache).
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from kfp import local

import components
import troika
from components.step import OUTSIDE, STEPS
from pipelines.graph import train_and_release
from troika.errors import ParameterError, TroikaError

_CACHED = tuple(step for step in STEPS if step not in OUTSIDE)


class StepFailedError(TroikaError):
    """A step ended with an error, which it has printed."""


@dataclass(frozen=True)
class LocalRun:
    """What a finished run left behind."""

    decision: str
    bundle: Path
    verdict: Path
    data_report: Path
    training_report: Path
    evaluation_report: Path
    reused: tuple[str, ...]
    """Steps that were not run again, since nothing they depend on has changed."""


def run_locally(
    home: Path,
    sections: Mapping[str, Mapping[str, Any]],
    arguments: Mapping[str, Any],
    *,
    fresh: bool,
    verbose: bool,
    image: str | None = None,
    light_image: str | None = None,
) -> LocalRun:
    """Run the pipeline in subprocesses of this Python, or in containers.

    Args:
        home: folder for artifacts, cache, log and unfinished training.
        sections: params.yaml.
        arguments: values of the run form, where they differ from its defaults.
        fresh: run every step again.
        verbose: show KFP's own log too; it is always written to `home/run.log`.
        image: train image to run the steps in, with this machine's Docker engine. None: no containers.
        light_image: image of the steps that train and judge nothing; None: the train image.

    Raises:
        ParameterError: the engine cannot be reached, or has no such image.
        StepFailedError: a step failed; it names the step and the log.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    # SubprocessRunner runs no image, but its name is part of the cache key: new code counts as a new image.
    pipeline = train_and_release(image or f"python-local:{_code_digest()}", sections, light_image=light_image)
    local.init(
        runner=_containers(image, light_image, home) if image else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(home / "runs"),
        raise_on_error=True,
        # A tag may name another image tomorrow; a digest never does.
        enable_caching=not fresh and (image is None or "@sha256:" in image),
        cache_root=str(home / "cache"),
    )
    os.environ["TROIKA_TRAINING_STATE"] = str(home / "training")
    if sys.stdout.isatty():
        os.environ["TROIKA_REDRAWS_PROGRESS"] = "1"
    log = home / "run.log"
    with log.open("w", encoding="utf-8") as file, _readable(file, verbose) as screen:
        try:
            task = pipeline(**arguments)
        except RuntimeError as error:
            # Steps that do not need the failed one are run all the same.
            failed = next(iter(screen.failed + screen.executed[-1:]), "before the first")
            raise StepFailedError(f"step {failed} failed; the whole log is in {log}") from error
    outputs = task.outputs
    released = "release_model" in screen.executed
    if released != (outputs["decision"] == "promote"):
        raise StepFailedError(
            f"the verdict was {outputs['decision']!r}, but release_model was {'' if released else 'not '}run: "
            f"KFP has not followed the condition of the graph; the whole log is in {log}"
        )
    paths = {name: Path(value.path) for name, value in outputs.items() if hasattr(value, "path")}
    return LocalRun(
        decision=outputs["decision"],
        reused=tuple(name for name in _CACHED if name not in screen.executed),
        **paths,
    )


def _containers(image: str, light_image: str | None, home: Path) -> local.DockerRunner:
    """Containers as on a cluster: nothing writable but `home` and /tmp, no capabilities."""
    import docker  # noqa: PLC0415 - only those who run containers need it

    try:
        with contextlib.closing(docker.from_env()) as client:
            for option, name in {"--image": image, "--light-image": light_image or image}.items():
                try:
                    client.images.get(name)
                except docker.errors.ImageNotFound:
                    raise ParameterError(
                        f"{option} {name}: this machine has no such image; build or pull it"
                    ) from None
    except docker.errors.DockerException as error:
        raise ParameterError(f"--image: no Docker engine answers here ({error}); set DOCKER_HOST?") from None
    return local.DockerRunner(
        # Files belong to the one who runs this.
        user=f"{os.getuid()}:{os.getgid()}",
        read_only=True,
        tmpfs={"/tmp": "exec"},  # noqa: S108
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="host",
        shm_size="1g",
        mounts=[docker.types.Mount(str(home), str(home), "bind")],
    )


def _code_digest() -> str:
    """Digest of all code that steps are made of."""
    digest = hashlib.sha256()
    for package in (components, troika):
        root = Path(next(iter(package.__path__)))
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".j2"):
                digest.update(f"{package.__name__}/{path.relative_to(root)}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_KFP_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (?P<message>.*)$")
_EXECUTING = re.compile(r"Executing task \S*?'(?P<step>[\w-]+)'")
_FAILED = re.compile(r"Task \S*?'(?P<step>[\w-]+)'\S* finished with status \S*FAILURE")
_PROGRESS = re.compile(r"^\S+ +\d+% .* steps  .* left  ")
_EXECUTOR = re.compile(r"^\[KFP Executor [^]]* (?P<level>[A-Z]+)\]: (?P<message>.*)$")
_INPUT_FOLLOWS, _INPUT_ENDS = "Got executor_input:", "    }"


class _Screen(io.TextIOBase):
    """Takes all that KFP prints; puts it into the log, and what the steps themselves say onto the screen.

    KFP indents what comes from a step by four blanks. That begins with the executor's own lines and its input as
    JSON; what follows, up to KFP's next line with a time stamp, is the step's.
    """

    def __init__(self, log: TextIO, terminal: TextIO, verbose: bool) -> None:
        self._log, self._terminal, self._verbose = log, terminal, verbose
        self._line = self._last = ""
        self._speaker: Literal["kfp", "input", "step"] = "kfp"
        self._in_bar = False
        self.executed: list[str] = []
        """Steps that were started, in order."""
        self.failed: list[str] = []

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        if self._verbose:
            self._show(text)
        # A bar redraws itself after a carriage return; from a container that comes as it is.
        *lines, self._line = (self._line + text.replace("\r", "\n")).split("\n")
        for line in lines:
            self._listen(line)
        return len(text)

    def _listen(self, line: str) -> None:
        text = line.strip()
        stamped = _KFP_LINE.match(line)
        if stamped:
            self._speaker = "kfp"
            started = _EXECUTING.search(stamped["message"])
            if failed := _FAILED.search(stamped["message"]):
                self.failed.append(failed["step"].replace("-", "_"))
            if started:
                self.executed.append(started["step"].replace("-", "_"))
                self._say(self.executed[-1])
        elif executor := _EXECUTOR.match(text):
            if executor["message"] == _INPUT_FOLLOWS:
                self._speaker = "input"
            elif executor["level"] != "INFO":
                self._say(f"  {executor['message']}")
        elif self._speaker == "input":
            if line == _INPUT_ENDS:
                self._speaker = "step"
        elif self._speaker == "step" and text:
            self._say(f"  {text}", bar=bool(_PROGRESS.match(text)))

    def _say(self, text: str, *, bar: bool = False) -> None:
        if self._verbose or text == self._last:
            return
        self._last = text
        redraw = bar and self._terminal.isatty()
        if redraw:
            text = text[: shutil.get_terminal_size().columns - 1]
        before = ("\r\033[K" if redraw else "\n") if self._in_bar else ""
        self._show(before + text + ("" if redraw else "\n"))
        self._in_bar = redraw

    def _show(self, text: str) -> None:
        try:
            self._terminal.write(text)
            self._terminal.flush()
        except BrokenPipeError:
            # Whoever listened (`| head`) has left; the run goes on, and all is in the log.
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, self._terminal.fileno())
            os.close(silence)


@contextlib.contextmanager
def _readable(log: TextIO, verbose: bool) -> Iterator[_Screen]:
    screen = _Screen(log, sys.stdout, verbose)
    with contextlib.redirect_stdout(screen):
        yield screen
