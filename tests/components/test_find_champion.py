"""The champion is what Git says is released, told in a file that changes only when it does."""

import json
from pathlib import Path

import pytest
from tiny_steps import Paths, run_quietly, tiny_params, write_params

from components.find_champion import find_champion
from troika.errors import ReleaseError
from troika.releases.bundle import Bundle
from troika.releases.pointer import ensure_local_remote, release
from troika.releases.store import PublishedModel, publish


def found(folder: Path, remote: str | Path, environment: str = "local") -> dict[str, object]:
    find_champion(folder / "champion.json", str(remote), environment, tiny_params("find_champion"))
    loaded: dict[str, object] = json.loads((folder / "champion.json").read_text())
    return loaded


def test_before_the_first_release_there_is_none(tmp_path: Path) -> None:
    assert found(tmp_path, ensure_local_remote(tmp_path / "releases.git")) == {"environment": "local"}


def test_it_is_the_released_model_of_that_environment(made: Paths, tmp_path: Path) -> None:
    remote = ensure_local_remote(tmp_path / "releases.git")
    verdict = made.verdict.read_bytes()
    published = publish(Bundle.open(made.bundle), verdict, tmp_path / "store", None, made.reference.read_bytes())
    release(remote, "staging", published, "0" * 64)
    expected = {
        "environment": "staging",
        "model": "tiny",
        "digest": published.digest,
        "version": 1,
        "store": published.store,
    }
    assert found(tmp_path, remote, "staging") == expected
    assert found(tmp_path, remote, "production") == {"environment": "production"}


def test_models_of_other_names_keep_their_own_champions(tmp_path: Path) -> None:
    remote = ensure_local_remote(tmp_path / "releases.git")
    for letter, name in (("a", "tiny"), ("b", "tiny"), ("c", "pictures")):
        entry = PublishedModel(name, "sha256:" + letter * 64, "file:///store", created=True)
        release(remote, "staging", entry, "0" * 64, replace=True)
    champion = found(tmp_path, remote, "staging")
    assert (champion["model"], champion["version"]) == ("pictures", 3)
    assert champion["others"] == {
        "tiny": {"model": "tiny", "digest": "sha256:" + "b" * 64, "version": 2, "store": "file:///store"}
    }


def test_a_remote_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError):
        found(tmp_path, tmp_path / "nowhere.git")
    assert not (tmp_path / "champion.json").exists()


def test_the_command_takes_remote_and_environment_from_the_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROIKA_RELEASE_REMOTE", str(ensure_local_remote(tmp_path / "releases.git")))
    monkeypatch.setenv("TROIKA_ENVIRONMENT", "staging")
    status, printed = run_quietly(
        "find_champion", "--champion", tmp_path / "champion.json", "--params", write_params(tmp_path)
    )
    assert (status, printed) == (0, "champion of staging: none: nothing is released yet\n")
