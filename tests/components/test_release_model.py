"""A release is one commit for what publish_model has recorded; anything else makes none."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tiny_steps import run_quietly, tiny_params, write_params

sys.path.insert(0, str(Path(__file__).parents[1] / "releases"))

from tiny_bundle import tiny_spec, unsealed

from components.release_model import release_model
from components.step import UNAVAILABLE
from troika.errors import ParameterError, ReleaseError, ServerError
from troika.releases.bundle import Bundle, seal
from troika.releases.pointer import ensure_local_remote, read_release
from troika.releases.store import publish

PARAMS = tiny_params("release_model", golden_test=False)  # Nothing is in the store that these name.
GOOD: dict[str, Any] = {
    "model": "tiny",
    "digest": "sha256:" + "a" * 64,
    "store": "file:///store",
    "created": True,
    "verdict_sha256": "sha256:" + "e" * 64,
}


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return ensure_local_remote(tmp_path / "remote.git")


def head(remote: Path) -> str:
    command = ["git", "-C", str(remote), "rev-parse", "main"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(folder: Path, content: object) -> Path:
    path = folder / "published.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_release_is_recorded_with_its_commit(
    remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release_model(write(tmp_path, GOOD), tmp_path / "release.json", str(remote), "staging", PARAMS)
    assert json.loads((tmp_path / "release.json").read_text()) == {
        "model": "tiny",
        "version": 1,
        "digest": GOOD["digest"],
        "previous_digest": None,
        "verdict_sha256": GOOD["verdict_sha256"],
        "store": "file:///store",
        "dataset": "",
        "dataset_source": "",
        "commit": head(remote),
    }
    assert capsys.readouterr().out == f"staging: version 1 released, commit {head(remote)[:12]}\n"


def test_releasing_the_same_again_makes_no_commit(
    remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = write(tmp_path, GOOD)
    release_model(published, tmp_path / "first.json", str(remote), "staging", PARAMS)
    before = head(remote)
    capsys.readouterr()
    release_model(published, tmp_path / "second.json", str(remote), "staging", PARAMS)
    assert head(remote) == before
    assert (tmp_path / "second.json").read_text() == (tmp_path / "first.json").read_text()
    assert capsys.readouterr().out == f"staging: version 1 is already released, commit {before[:12]}\n"


def test_the_next_model_gets_the_next_version_and_names_the_one_before(remote: Path, tmp_path: Path) -> None:
    release_model(write(tmp_path, GOOD), tmp_path / "release.json", str(remote), "staging", PARAMS)
    other = GOOD | {"digest": "sha256:" + "b" * 64}
    release_model(write(tmp_path, other), tmp_path / "release.json", str(remote), "staging", PARAMS)
    made = json.loads((tmp_path / "release.json").read_text())
    assert (made["version"], made["previous_digest"]) == (2, GOOD["digest"])


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "3", {}, {**GOOD, "colour": 1},
        {key: value for key, value in GOOD.items() if key != "verdict_sha256"},
        {key: value for key, value in GOOD.items() if key != "digest"},
    ],
    ids=["empty", "no JSON", "a list", "null", "a number", "no key", "a key more", "no verdict", "no digest"],
)  # fmt: skip
def test_what_publish_model_did_not_write_is_refused(remote: Path, tmp_path: Path, content: object) -> None:
    before = head(remote)
    with pytest.raises(ReleaseError, match=r"published\.json is not what publish_model writes"):
        release_model(write(tmp_path, content), tmp_path / "release.json", str(remote), "staging", PARAMS)
    assert head(remote) == before
    assert not (tmp_path / "release.json").exists()


@pytest.mark.parametrize(
    "changes", [{"digest": "latest"}, {"digest": 3}, {"model": "../x"}, {"verdict_sha256": ""}, {"store": None}]
)
def test_values_that_no_release_may_hold_are_named(
    remote: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    before = head(remote)
    with pytest.raises(ReleaseError, match=next(iter(changes))):
        release_model(write(tmp_path, GOOD | changes), tmp_path / "release.json", str(remote), "staging", PARAMS)
    assert head(remote) == before


def test_a_missing_record_is_named(remote: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"none\.json is not what publish_model writes \(.*No such file"):
        release_model(tmp_path / "none.json", tmp_path / "release.json", str(remote), "staging", PARAMS)


def test_a_remote_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    published = write(tmp_path, GOOD)
    for remote in (f"file://{tmp_path}/nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ReleaseError, match=f"{tmp_path}/nowhere"):
            release_model(published, tmp_path / "release.json", remote, "staging", PARAMS)
    code, text = run_quietly(
        "release_model", "--published", published, "--release", tmp_path / "release.json",
        "--remote", tmp_path / "nowhere", "--environment", "staging", "--params", write_params(tmp_path),
    )  # fmt: skip
    assert code == UNAVAILABLE  # which may pass
    assert text.startswith("error: ")
    assert not (tmp_path / "release.json").exists()


def test_an_environment_that_is_no_folder_name_is_refused(remote: Path, tmp_path: Path) -> None:
    before = head(remote)
    for environment in ("../x", "", "a/b"):
        with pytest.raises(ReleaseError, match="environment"):
            release_model(write(tmp_path, GOOD), tmp_path / "release.json", str(remote), environment, PARAMS)
    assert head(remote) == before
    assert read_release(remote, "staging") is None


def test_attempts_out_of_range_are_named() -> None:
    with pytest.raises(ParameterError, match="attempts: Input should be greater than or equal to 1"):
        tiny_params("release_model", attempts=0)


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_real_triton_tries_the_model_before_the_commit(
    remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoiled: bool
) -> None:
    folder = unsealed(tmp_path / "bundle")
    if spoiled:
        (folder / "graph_repository" / "tiny_graph" / "1" / "model.onnx").write_bytes(b"nonsense")
    digest = seal(folder, "tiny", tiny_spec(conditional=True), {})
    entry = publish(Bundle.open(folder), {"decision": "promote", "bundle_digest": digest}, tmp_path / "store")
    published = write(tmp_path, {**asdict(entry), "verdict_sha256": GOOD["verdict_sha256"]})
    arguments = (published, tmp_path / "release.json", str(remote), "staging", tiny_params("release_model"))
    if spoiled:
        with pytest.raises(ServerError, match="Triton cannot serve tiny"):
            release_model(*arguments)
        assert read_release(remote, "staging") is None
        assert not (tmp_path / "release.json").exists()
        return
    release_model(*arguments)
    assert "Triton gives its 3 golden images" in capsys.readouterr().out
    current = read_release(remote, "staging")
    assert current is not None
    assert current.digest == digest
