"""A killed run leaves no half dataset, the next one completes, two at once do not disturb each other."""

import os
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import yaml
from quick import REPOSITORY
from raw_images import prepare, prepare_params, random_images, write_folder

from troika import folders
from troika.datasets.cores import usable_cores
from troika.errors import DatasetError

BEGIN_AND_WAIT = """
import sys, time
from pathlib import Path
from troika.folders import replace_folder
with replace_folder(Path(sys.argv[1])) as new:
    (new / "half").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.savez(tmp_path / "images.npz", images=random_images(60), labels=np.arange(60) % 2)
    return tmp_path / "images.npz"


def begin(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN_AND_WAIT, str(target)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_killed_run_leaves_the_old_dataset_and_the_next_one_cleans_up(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_YOUNG_SECONDS", 0)
    before = prepare(tmp_path / "out", source).dataset.info
    with begin(tmp_path / "out" / "dataset") as killed:
        os.kill(killed.pid, signal.SIGKILL)
    assert prepare_names(tmp_path) != ["dataset"], "the control: a kill does leave something"
    assert not (tmp_path / "out" / "dataset" / "half").exists()
    assert prepare(tmp_path / "out", source).dataset.info == before
    assert prepare_names(tmp_path) == ["dataset"]


def test_of_two_at_once_neither_removes_what_the_other_is_writing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_YOUNG_SECONDS", 0)
    with begin(tmp_path / "out" / "dataset") as other:
        made = prepare(tmp_path / "out", source)
        assert len(list((tmp_path / "out").glob(".dataset.*/half"))) == 1
        other.kill()
    assert sum(made.dataset.info.counts.values()) == 60


def test_a_disk_that_is_too_small_is_told_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(1000, 1000, 100)
    monkeypatch.setattr("troika.datasets.preparation.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DatasetError, match=r"needs 0\.0 GB in .*, where 0\.0 GB are free; make room"):
        prepare(tmp_path / "out", source)
    assert prepare_names(tmp_path) == []


KILLED_THERE = """
import sys, time
from troika.datasets import preparation
there = getattr(preparation, sys.argv[1])
whole = there.add
def add(*arguments):
    whole(*arguments)
    print("begun", flush=True)
    time.sleep(60)
there.add = add
from components.prepare_data import prepare_data
from components.step import run_step
run_step(prepare_data, sys.argv[2:])
"""


def arguments(tmp_path: Path, source: Path) -> list[str]:
    """Of the step's command, with the parameters of `prepare` here."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"prepare_data": prepare_params().model_dump()}))
    paths = {"dataset": "dataset", "report": "data.html", "refused": "refused.json"}
    options = [text for name, file in paths.items() for text in (f"--{name}", str(tmp_path / "out" / file))]
    changes = ["--set", "source=auto", "--set", f"path={source}"]
    return [*options, "--params", str(tmp_path / "params.yaml"), *changes]


@pytest.mark.parametrize("where", ["Spool", "SplitWriter"])
def test_the_step_killed_while_reading_or_writing_leaves_nothing_and_its_repeat_completes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(folders, "_YOUNG_SECONDS", 0)
    command = [sys.executable, "-c", KILLED_THERE, where, *arguments(tmp_path, source)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        half = next((tmp_path / "out").glob(".dataset.*"))
        assert any(file.is_file() for file in half.rglob("*")), "the control: it was at work"
        process.kill()
    assert not (tmp_path / "out" / "dataset").exists()
    again = prepare(tmp_path / "out", source).dataset.info
    assert prepare_names(tmp_path) == ["dataset"]
    assert again == prepare(tmp_path / "whole", source).dataset.info


def run_with_files_of_at_most(size: int, tmp_path: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """The step, where the system stops each file at `size` bytes, as a quota would."""
    return subprocess.run(
        [sys.executable, "-m", "components.prepare_data", *arguments(tmp_path, source)],
        cwd=REPOSITORY,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_disk_that_fills_up_meanwhile_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """The images are 94 kB."""
    np.savez(tmp_path / "images.npz", images=random_images(120, size=(28, 28)), labels=np.arange(120) % 2)
    done = run_with_files_of_at_most(64_000, tmp_path, tmp_path / "images.npz")
    assert (done.returncode, done.stdout) == (
        1,
        "error: File too large; make room, or give a folder that may be written\n",
    ), done.stderr
    assert prepare_names(tmp_path) == []


def test_too_little_room_for_what_processes_hand_over_is_told(tmp_path: Path) -> None:
    """A file that all of them have mapped: to write where there is no room would kill them."""
    if usable_cores() == 1:
        pytest.skip("one core: no process hands anything over")
    write_folder(tmp_path / "images", random_images(520), np.arange(520) % 2)
    done = run_with_files_of_at_most(8_000, tmp_path, tmp_path / "images")
    assert done.returncode == 1
    assert done.stdout == (
        f"error: reading images by several processes needs 0.0 MB in {tmp_path / 'out'}: File too large; "
        "make room there, or write elsewhere\n"
    ), done.stderr
    assert prepare_names(tmp_path) == []


def prepare_names(folder: Path) -> list[str]:
    """What lies beside the dataset, reports left out."""
    return sorted(p.name for p in (folder / "out").iterdir() if p.name not in {"data.html", "refused.json"})
