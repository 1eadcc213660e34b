"""Each image holds all of the project's code that its programs import.

What each Dockerfile copies is copied to a folder, where the programs are imported; the images themselves are built
in tests/containers.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from quick import REPOSITORY, plain_environment

from components.step import LIGHT, STEPS

PROGRAMS = {
    "train": ["troika.cli", "troika.doctor", "pipelines.submit", *(f"components.{step}" for step in STEPS)],
    "light": ["troika.releases.canary_guard", "troika.serving.triton", *(f"components.{step}" for step in LIGHT)],
    "serve": ["troika.serving.container", "troika.serving.model_fetch", "troika.serving.golden"],
    "probe": ["troika.serving.quality_probe"],
}


def copy_as(dockerfile: Path, folder: Path) -> None:
    """Do what COPY does in the last stage, with /app as `folder`."""
    last = dockerfile.read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    for line in re.findall(r"^COPY (?!--from)(.+)$", last, re.MULTILINE):
        *sources, target = line.split()
        into = folder / target.removeprefix("/app/")
        for source in sources:
            for path in REPOSITORY.glob(source):
                if path.is_dir():
                    shutil.copytree(path, into, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, into)


@pytest.mark.parametrize("image", PROGRAMS)
def test_an_image_holds_what_its_programs_import(image: str, tmp_path: Path) -> None:
    copy_as(REPOSITORY / f"Dockerfile.{image}", tmp_path)
    code = f"import importlib\nfor name in {PROGRAMS[image]}: importlib.import_module(name)\n"
    code += "import troika; print(troika.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False, cwd=tmp_path, env={**plain_environment(), "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(tmp_path / "troika" / "__init__.py")
