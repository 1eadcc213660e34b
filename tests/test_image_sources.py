"""Each image holds every module of ours that its programs import: what a Dockerfile copies is enough."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from quick import REPOSITORY

PROGRAMS = {
    "serve": ("troika.serving.container", "troika.serving.model_fetch", "troika.serving.golden"),
    "light": (
        "troika.releases.canary_guard",
        "components.find_champion",
        "components.publish_model",
        "components.release_model",
    ),
    "probe": ("troika.serving.quality_probe",),
}


def copied(image: str, target: Path) -> Path:
    """Copy what `COPY` of a Dockerfile copies of the repository; the folder, as the image has it."""
    text = (REPOSITORY / f"Dockerfile.{image}").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^COPY ((?!--).+)$", text, re.MULTILINE):
        *sources, place = line.split()
        for path in (path for source in sources for path in sorted(REPOSITORY.glob(source))):
            inside = target / place.removeprefix("/app/").removeprefix("./")
            if path.is_dir():
                shutil.copytree(path, inside, dirs_exist_ok=True)
            else:
                inside.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, inside)
    return target


def imports(folder: Path, module: str) -> subprocess.CompletedProcess[str]:
    # Packages of this environment, and of ours only what was copied.
    code = (
        "import importlib, sys\n"
        f"sys.path[:0] = [{str(folder)!r}]\n"
        f"module = importlib.import_module({module!r})\n"
        f"assert module.__file__.startswith({str(folder)!r}), module.__file__\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder, timeout=300
    )


@pytest.mark.parametrize("image", sorted(PROGRAMS))
def test_an_image_holds_all_that_its_programs_import(image: str, tmp_path: Path) -> None:
    folder = copied(image, tmp_path)
    for module in PROGRAMS[image]:
        done = imports(folder, module)
        assert done.returncode == 0, done.stderr[-1500:]


def test_a_module_that_is_not_copied_is_missed(tmp_path: Path) -> None:
    folder = copied("serve", tmp_path)
    (folder / "troika" / "folders.py").unlink()
    done = imports(folder, "troika.serving.container")
    assert "No module named 'troika.folders'" in done.stderr
