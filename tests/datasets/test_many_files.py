"""Folders with so many files that processes decode them; pages of sets with many classes and large images."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_images import prepare, prepare_npz, random_images, write_folder

from troika.datasets.decoding import Decoded, Form
from troika.datasets.sources import folder as folder_source
from troika.datasets.sources.slots import Slots, open_slots
from troika.errors import DatasetError

decode_piece = folder_source._decode_piece
IMAGES, LABELS = random_images(150), np.arange(150) % 2


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes for any number of files, in pieces of eight."""
    monkeypatch.setattr(folder_source, "_INLINE_FILES", 0)
    monkeypatch.setattr(folder_source, "_MOST_FILES_IN_BLOCK", 8)
    monkeypatch.setattr(folder_source, "usable_cores", lambda: 2)


def write(root: Path) -> Path:
    write_folder(root, IMAGES, LABELS)
    (root / "a" / "0007.png").write_bytes(b"no image")
    content = (root / "b" / "0101.png").read_bytes()
    (root / "b" / "0101.png").write_bytes(content[: len(content) // 2])
    return root


def test_processes_give_what_one_process_gives(tmp_path: Path, by_processes: None) -> None:
    source = write(tmp_path / "images")
    many = prepare(tmp_path / "many", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_source, "_INLINE_FILES", 1000)
        one = prepare(tmp_path / "one", source)
    assert many.dataset.info == one.dataset.info
    assert many.refused == one.refused
    assert set(many.quarantined()) == {"a/0007.png", "b/0101.png"}
    # One image in colour, which no look at a few headers sees: all is read anew.
    Image.fromarray(random_images(1, channels=3)[0]).save(source / "b" / "0033.png")
    assert prepare(tmp_path / "colour", source).dataset.info.shape == (4, 3, 3)


def test_slots_have_their_room_from_the_start_and_go_with_the_block(tmp_path: Path) -> None:
    with open_slots(tmp_path, 3, 10, (28, 28, 1)) as slots:
        file = Path(slots.path)
        assert file.stat().st_blocks * 512 >= 3 * 10 * 784, "a mapped file without room kills who writes to it"
        slots[1][:] = 7
        assert [int(slots[number].max()) for number in range(6)] == [0, 7, 0, 0, 7, 0]
    assert not list(tmp_path.iterdir())


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_and_leaves_nothing(
    tmp_path: Path, by_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "images")
    monkeypatch.setattr(folder_source, "_decode_piece", die)
    with pytest.raises(DatasetError, match=r"a process that decodes images of .* was ended from outside"):
        prepare(tmp_path / "out", source)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["refused.json"]


def die_of_one(root: str, form: Form, slots: Slots, piece: tuple[int, list[str]]) -> Decoded:
    """As a decoder with a fault: one file among all ends the process."""
    if "b/0101.png" in piece[1]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode_piece(root, form, slots, piece)


def die_once(root: str, form: Form, slots: Slots, piece: tuple[int, list[str]]) -> Decoded:
    """As where memory is short: the process is ended, but not because of a file."""
    if len(piece[1]) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_piece(root, form, slots, piece)


@pytest.mark.parametrize(
    ("work", "words"), [(die_of_one, r" by b/0101\.png; take it out$"), (die_once, "; is there too little memory")]
)
def test_the_file_that_ends_a_worker_is_named(
    tmp_path: Path, by_processes: None, monkeypatch: pytest.MonkeyPatch, work: object, words: str
) -> None:
    source = write(tmp_path / "images")
    monkeypatch.setattr(folder_source, "_decode_piece", work)
    with pytest.raises(DatasetError, match=rf"a process that decodes images of .* was ended from outside{words}"):
        prepare(tmp_path / "out", source)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["refused.json"]


def test_a_page_of_many_classes_and_large_images_stays_small(tmp_path: Path) -> None:
    images = random_images(1200, channels=3, size=(128, 128))  # noise, which no picture format makes smaller
    names = np.array([f"{number} {'long name of a class ' * 10}" for number in range(30)])
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(1200) % 30, classes=names)
    made = prepare(tmp_path, tmp_path / "images.npz")
    assert 100_000 < len(made.report.encode()) < 2_000_000


def test_a_page_of_five_hundred_classes_stays_small(tmp_path: Path) -> None:
    prepare_npz(tmp_path, random_images(30_000), np.arange(30_000) % 500)
    assert (tmp_path / "data.html").stat().st_size < 2_000_000
