"""Commands of `troika` against the fake of Kubeflow's API server, shared by tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipelines_fake import FakeKubeflow
from quick import REPOSITORY
from typer.testing import CliRunner

from pipelines import compile as compiling
from troika.cli import app

ARGUMENTS = {"store": "s3://models", "release_remote": "git@git.test:deploy.git", "environment": "staging"}
SUBMIT = (
    "--image", "registry.test/train@sha256:00", "--store", "s3://models",
    "--release-remote", "git@git.test:deploy.git", "--to", "staging",
    "--params", str(REPOSITORY / "params.yaml"), "--cluster", str(REPOSITORY / "pipelines" / "cluster.yaml"),
)  # fmt: skip
_COMPILED: dict[str, tuple[bytes, str]] = {}


def troika(*arguments: str) -> tuple[int, str]:
    """Return exit status and output of a command."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def submit(fake: FakeKubeflow, *more: str) -> tuple[int, str]:
    return troika("submit", "--host", fake.url, *SUBMIT, *more)


def declare(path: Path, **runs: Any) -> Path:
    path.write_text(yaml.safe_dump(runs))
    return path


def recurring(fake: FakeKubeflow, *arguments: str | Path) -> tuple[int, str]:
    return troika("recurring", *map(str, arguments), "--host", fake.url)


def compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each package once in a process: a second takes a second or two."""
    real: Callable[..., str] = compiling.compile_pipeline

    def compiled(package: Path, *arguments: Any) -> str:
        key = repr(arguments)
        if key not in _COMPILED:
            name = real(package, *arguments)
            _COMPILED[key] = package.read_bytes(), name
        content, name = _COMPILED[key]
        package.parent.mkdir(parents=True, exist_ok=True)
        package.write_bytes(content)
        return name

    monkeypatch.setattr(compiling, "compile_pipeline", compiled)
