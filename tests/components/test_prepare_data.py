"""Images in, a checked dataset with its report out; too many bad ones stop the step and are listed."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_steps import Paths, run_quietly, tiny_params, write_params

from components.prepare_data import prepare_data
from troika.datasets.contract import Dataset
from troika.datasets.dvc_hash import dvc_hash
from troika.errors import DatasetError, ParameterError


def write_npz(folder: Path, *, constant: int = 0, repeated: int = 0, classes: list[str] | None = None) -> Path:
    """100 random images, some of them spoilt."""
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 3, 3), dtype=np.uint8)
    images[:constant] = 9
    images[50 : 50 + 2 * repeated : 2] = images[90]
    extra = {} if classes is None else {"classes": np.array(classes)}
    np.savez(folder / "images.npz", images=images, labels=np.arange(100) % 2, **extra)
    return folder / "images.npz"


def prepare(folder: Path, path: Path, **changes: Any) -> Dataset:
    params = tiny_params(
        "prepare_data", source="npz", path=str(path), validation_share=0.2, test_share=0.2, **changes
    )
    prepare_data(folder / "dataset", folder / "data.html", folder / "refused.json", params)
    return Dataset.open(folder / "dataset")


def test_the_digits_become_three_splits(made: Paths) -> None:
    dataset = Dataset.open(made.dataset)
    assert sum(dataset.info.counts.values()) == 1797
    assert dataset.info.levels == 17
    assert dataset.info.content_hash == (
        "sha256:f613d19bf76b49e665f6516e3dc499f3ff7bf75a23560ecef9d443050adcaef6"
    ), "released models name it"
    assert dataset.info.counts["train"] / 1797 == pytest.approx(0.7, abs=0.04)
    for split in dataset.splits.values():
        assert set(split.labels.tolist()) == set(range(10))
    assert json.loads((made.folder / "refused.json").read_text())["quarantined"] == []


def test_bad_images_are_left_out_and_listed(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, write_npz(tmp_path, constant=2, repeated=1), max_refused_share=0.03)
    assert sum(dataset.info.counts.values()) == 97
    listed = json.loads((tmp_path / "refused.json").read_text())["quarantined"]
    assert [tuple(entry.values()) for entry in listed] == [
        (0, "image 0", "0", "constant", "all pixels are alike: 9"),
        (1, "image 1", "1", "constant", "all pixels are alike: 9"),
        (90, "image 90", "0", "duplicate", "same as image 50"),
    ]
    report = (tmp_path / "data.html").read_text()
    assert "97 images kept, 3 quarantined" in report
    assert "all pixels are alike: 9" in report


def test_too_many_bad_images_stop_the_step_and_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(tmp_path, constant=2, repeated=2)
    with pytest.raises(DatasetError) as caught:
        prepare(tmp_path, path, max_refused_share=0.03)
    assert str(caught.value) == (
        "4 of 100 images are unusable (4.0%), more than max_refused_share = 3.0% allows; the first: image 0, "
        f"constant (all pixels are alike: 9); all are listed in {tmp_path}/refused.json"
    )
    assert len(json.loads((tmp_path / "refused.json").read_text())["quarantined"]) == 4
    # Kubeflow keeps no files of a step that fails, only what it prints.
    assert capsys.readouterr().out.splitlines() == [
        "refused: image 0: constant: all pixels are alike: 9",
        "refused: image 1: constant: all pixels are alike: 9",
        "refused: image 52: duplicate: same as image 50",
        "refused: image 90: duplicate: same as image 50",
        "refused because of constant: 2 images",
        "refused because of duplicate: 2 images",
    ]
    monkeypatch.setattr("components.prepare_data._MOST_PRINTED", 1)
    with pytest.raises(DatasetError):
        prepare(tmp_path, path, max_refused_share=0.03)
    assert "refused: and 3 more\n" in capsys.readouterr().out
    assert not (tmp_path / "dataset").exists()
    assert not (tmp_path / "data.html").exists()


def test_a_failure_leaves_the_old_dataset_alone(tmp_path: Path) -> None:
    before = prepare(tmp_path, write_npz(tmp_path)).info
    (tmp_path / "images.npz").write_bytes(b"spoilt")
    with pytest.raises(DatasetError, match=r"images\.npz is not a readable \.npz file"):
        prepare(tmp_path, tmp_path / "images.npz")
    assert Dataset.open(tmp_path / "dataset").info == before


class Links(HTMLParser):
    """Everything by which a page could reach outside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.images = 0
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.images += tag == "img"
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action"} and not (value or "").startswith("data:"):
                self.outside.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("name", ["data.html", "evaluation.html"])
def test_a_report_needs_nothing_but_itself(made: Paths, name: str) -> None:
    text = (made.folder / name).read_text()
    page = Links()
    page.feed(text)
    assert page.outside == []
    # The grid of the data; samples of each class, suspicious ones and the way between latents of the model.
    assert page.images == 1 if name == "data.html" else page.images > 100
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_report_tells_counts_and_identity(made: Paths) -> None:
    text = (made.folder / "data.html").read_text()
    info = Dataset.open(made.dataset).info
    for value in (info.content_hash, dvc_hash(made.dataset), *map("{:,}".format, info.counts.values())):
        assert value in text


def test_class_names_cannot_put_markup_into_the_report(tmp_path: Path) -> None:
    prepare(tmp_path, write_npz(tmp_path, classes=["<script>alert(1)</script>", "b"]))
    text = (tmp_path / "data.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation_share": 0.5, "test_share": 0.4}, "validation_share \\+ test_share must leave at least 0.2"),
        ({"validation_share": 0.0}, "validation_share: Input should be greater than 0"),
        ({"test_share": 1.0}, "test_share: Input should be less than 1"),
        ({"max_refused_share": 1.1}, "max_refused_share: Input should be less than or equal to 1"),
        ({"path": None}, "path: Input should be a valid string"),
    ],
)
def test_shares_out_of_range_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        tiny_params("prepare_data", **changes)


def test_errors_reach_the_command_line_as_one_message(tmp_path: Path) -> None:
    paths = ("--dataset", tmp_path / "d", "--report", tmp_path / "r", "--refused", tmp_path / "x")
    params = ("--params", write_params(tmp_path))
    assert run_quietly("prepare_data", *paths, *params, "--set", "source=cifar") == (
        1,
        "error: source: there is no 'cifar'; available: auto, digits, folder, idx, mnist5k, npz\n",
    )
    code, text = run_quietly("prepare_data", *paths, *params)
    assert code == 0
    assert re.fullmatch(r"\d+ train, \d+ validation, \d+ test; 0 refused; 10 classes, \(8, 8, 1\) pixels\n", text)


def test_a_previous_dataset_that_is_damaged_is_not_compared_with_and_one_that_is_not_there_is_named(
    tmp_path: Path,
) -> None:
    path = write_npz(tmp_path)
    prepare(tmp_path / "old", path)
    good = json.loads((tmp_path / "old" / "dataset" / "dataset.json").read_text())
    prepare(tmp_path, path, previous=str(tmp_path / "old" / "dataset"))
    assert json.loads((tmp_path / "refused.json").read_text())["remarks"] == []
    (tmp_path / "old" / "dataset" / "dataset.json").write_text(json.dumps({**good, "schema_version": 1}))
    prepare(tmp_path, path, previous=str(tmp_path / "old" / "dataset"))
    (words,) = json.loads((tmp_path / "refused.json").read_text())["remarks"]
    assert words.startswith(f"drift: not compared with {tmp_path}/old/dataset: ")
    with pytest.raises(DatasetError, match=f"previous: {tmp_path}/odl is not a dataset"):
        prepare(tmp_path, path, previous=str(tmp_path / "odl"))
