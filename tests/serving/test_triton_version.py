"""An old Triton is named on a laptop, and does not serve in the image that production runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from quick import REPOSITORY

from troika.serving.triton import TritonServer
from troika.serving.triton_process import Installation, find_installation
from troika.serving.triton_version import OLDEST_RELEASE, OLDEST_SAFE, complaint


@pytest.mark.parametrize(
    ("found", "fine"),
    [
        ("2.51.0", False), ("2.70.9", False), ("2.71.0", True), ("2.71.0dev", True), ("2.100.0", True),
        ("3.0.0", True), ("1.99.0", False), ("", False), ("unknown", False),
    ],
)  # fmt: skip
def test_versions_are_compared_as_numbers(found: str, fine: bool) -> None:
    assert (complaint(found) is None) == fine
    if not fine:
        assert OLDEST_SAFE in str(complaint(found))


def test_the_version_of_the_wheel_is_what_it_says_when_it_runs(server: TritonServer) -> None:
    assert server.triton_version == "2.51.0" == find_installation().version


def image(folder: Path, version: str | None) -> Path:
    """A program as NVIDIA's image has it."""
    program = folder / "tritonserver" / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho started\nexit 1\n")
    program.chmod(0o755)
    if version is not None:
        (program.parents[1] / "TRITON_VERSION").write_text(f"{version}\n")
    return program


@pytest.mark.parametrize("version", ["2.51.0", "2.71.0", None])
def test_the_version_of_an_image_is_in_a_file(tmp_path: Path, version: str | None) -> None:
    assert Installation(image(tmp_path, version), None).version == version


@pytest.mark.parametrize(
    ("version", "allowed", "status", "words"),
    [
        ("2.51.0", "false", 1, "error: Triton 2.51.0 has known faults"),
        ("2.51.0", "true", 0, "warning: Triton 2.51.0 has known faults"),
        ("2.71.0", "false", 0, "Triton 2.71.0"),
        (None, "false", 0, "looked at again when it starts"),
    ],
)
def test_a_build_of_the_image_stops_at_an_old_one(
    tmp_path: Path, version: str | None, allowed: str, status: int, words: str
) -> None:
    command = [sys.executable, "-m", "troika.serving.triton_version", str(image(tmp_path, version)), allowed]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")
    assert words in done.stdout


@pytest.mark.parametrize("allowed", ["false", "true"])
def test_a_container_does_not_serve_by_an_old_one(
    conditional_bundle: object, tmp_path: Path, allowed: str
) -> None:
    command = [sys.executable, "-m", "troika.serving.container", "--digest", conditional_bundle.digest]  # type: ignore[attr-defined]
    command += ["--target", str(conditional_bundle.folder)]  # type: ignore[attr-defined]
    command += ["--tritonserver", str(image(tmp_path, "2.51.0"))]
    environment = {"TROIKA_ALLOW_OLD_TRITON": allowed, "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1  # the program is not a real Triton
    assert "Traceback" not in done.stderr
    if allowed == "true":
        assert "warning: Triton 2.51.0 has known faults" in done.stderr
        assert "Triton cannot serve tiny" in done.stderr
    else:
        assert "error: Triton 2.51.0 has known faults" in done.stderr
        assert "TROIKA_ALLOW_OLD_TRITON=true" in done.stderr


def test_the_page_on_safety_names_the_oldest() -> None:
    page = (REPOSITORY / "docs" / "serving-safety.md").read_text("utf-8")
    assert f"{OLDEST_SAFE} (container release {OLDEST_RELEASE})" in page
