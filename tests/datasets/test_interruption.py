"""A killed run leaves no half dataset, the next one completes, two at once do not disturb each other."""

import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from quick import REPOSITORY
from raw_images import prepare, random_images

from troika import folders
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


def prepare_names(folder: Path) -> list[str]:
    """What lies beside the dataset, reports left out."""
    return sorted(p.name for p in (folder / "out").iterdir() if p.name not in {"data.html", "refused.json"})
