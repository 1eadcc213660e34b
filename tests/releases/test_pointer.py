"""The Git pointer moves by single commits of one file; what is no pointer, remote or environment is named."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from git_remote import FILE, VERDICT, git, published

from troika.credentials import without_credentials
from troika.errors import ReleaseError
from troika.releases.pointer import (
    Release,
    ensure_local_remote,
    read_release,
    release,
    release_file,
)


def test_a_release_is_one_commit_that_changes_one_file(remote: Path) -> None:
    assert read_release(remote, "staging") is None
    first, _, created = release(remote, "staging", published("a"), VERDICT)
    assert created
    second, commit, created = release(str(remote), "staging", published("b"), VERDICT)
    assert created
    assert first == Release(
        model="tiny",
        version=1,
        digest="sha256:" + "a" * 64,
        previous_digest=None,
        verdict_sha256=VERDICT,
        store="file:///store",
    )
    assert (second.version, second.previous_digest) == (2, first.digest)
    assert read_release(f"file://{remote}", "staging") == second
    assert read_release(remote, "production") is None
    assert git("rev-parse", "main", cwd=remote).strip() == commit
    assert git("show", "--name-only", "--format=", "main", cwd=remote).split() == [FILE]
    assert len(git("rev-list", "main", cwd=remote).split()) == 3
    assert git("ls-tree", "--name-only", "main", cwd=remote).split() == ["README.md", "manifests"]


def test_the_file_is_a_local_config_map_of_strings(remote: Path) -> None:
    release(remote, "staging", published("a"), VERDICT)
    document = yaml.safe_load(git("show", f"main:{FILE}", cwd=remote))
    assert document["kind"] == "ConfigMap"
    assert document["metadata"]["annotations"] == {"config.kubernetes.io/local-config": "true"}
    assert document["data"] == {
        "model": "tiny",
        "version": "1",
        "digest": "sha256:" + "a" * 64,
        "previousDigest": "",
        "verdictSha256": VERDICT,
        "store": "file:///store",
    }


def test_file_and_commit_tell_the_dataset_where_it_is_known(remote: Path) -> None:
    hashed, source = "sha256:" + "d" * 64, "folder images, https://git.example/pictures.git at v2 (0123456789ab)"
    trained = replace(published("a"), dataset=hashed, dataset_source=source)
    first, commit, _ = release(remote, "staging", trained, VERDICT)
    data = yaml.safe_load(git("show", f"main:{FILE}", cwd=remote))["data"]
    assert (data["dataset"], data["datasetSource"]) == (hashed, source)
    assert f"Dataset: {hashed} ({source})\n" in git("show", "--no-patch", "--format=%B", commit, cwd=remote)
    assert read_release(remote, "staging") == first
    assert (first.dataset, first.dataset_source) == (hashed, source)
    release(remote, "staging", published("b"), VERDICT)
    assert "Dataset" not in git("show", "--no-patch", "--format=%B", "main", cwd=remote)


def test_releasing_what_is_current_makes_no_commit(remote: Path) -> None:
    first, head, _ = release(remote, "staging", published("a"), VERDICT)
    assert release(remote, "staging", published("a"), "f" * 64) == (first, head, False)
    assert git("rev-parse", "main", cwd=remote).strip() == head


def test_a_git_revert_rolls_back_to_the_very_same_file(remote: Path, tmp_path: Path) -> None:
    release(remote, "staging", published("a"), VERDICT)
    before = git("show", f"main:{FILE}", cwd=remote)
    release(remote, "staging", published("b"), VERDICT)
    git("clone", "--quiet", str(remote), "clone", cwd=tmp_path)
    git("revert", "--no-edit", "HEAD", cwd=tmp_path / "clone")
    git("push", "--quiet", cwd=tmp_path / "clone")
    assert git("show", f"main:{FILE}", cwd=remote) == before


def test_the_users_hooks_signing_and_identity_do_not_matter(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-push", "pre-commit"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(
        f"[core]\nhooksPath = {hooks}\nautocrlf = true\n[commit]\ngpgSign = true\n[push]\ngpgSign = true\n"
        "[user]\nuseConfigOnly = true\nsigningKey = nobody\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert release(remote, "staging", published("a"), VERDICT)[2]
    monkeypatch.undo()
    assert (
        git("show", "--no-patch", "--format=%cn <%ce>", "main", cwd=remote).strip() == "Troika <troika@localhost>"
    )
    assert "\r" not in git("show", f"main:{FILE}", cwd=remote)


def test_the_users_own_identity_is_used_if_there_is_one(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    release(remote, "staging", published("a"), VERDICT)
    assert git("show", "--no-patch", "--format=%an <%ae>", "main", cwd=remote).strip() == "Ada <ada@example.org>"


def test_a_relative_path_is_a_remote_too(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(remote.parent)
    assert release("remote.git", "staging", published("a"), VERDICT)[2]


def test_links_in_the_repository_are_not_followed(remote: Path, tmp_path: Path) -> None:
    git("clone", "--quiet", str(remote), "clone", cwd=tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "clone" / "manifests").symlink_to(tmp_path / "outside")
    git("add", ".", cwd=tmp_path / "clone")
    git("commit", "--quiet", "-m", "Trick", cwd=tmp_path / "clone")
    git("push", "--quiet", cwd=tmp_path / "clone")
    with pytest.raises(ReleaseError, match="manifests"):
        release(remote, "staging", published("a"), VERDICT)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: ConfigMap\n", "ConfigMap"),
        ("data: [\n", "ConfigMap"),
        ("data: text\n", "ConfigMap"),
        ("data: {model: tiny}\n", "digest"),
        ("data: {digest: latest}\n", "digest"),
        ("data: {extra: x}\n", "extra"),
    ],
)
def test_a_pointer_that_is_not_valid_is_named(remote: Path, tmp_path: Path, text: str, words: str) -> None:
    git("clone", "--quiet", str(remote), "clone", cwd=tmp_path)
    path = tmp_path / "clone" / FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    git("add", ".", cwd=tmp_path / "clone")
    git("commit", "--quiet", "-m", "Spoil", cwd=tmp_path / "clone")
    git("push", "--quiet", cwd=tmp_path / "clone")
    with pytest.raises(ReleaseError, match=f"release.yaml.*{words}"):
        read_release(remote, "staging")


@pytest.mark.parametrize("environment", ["", "../main", "Prod", "a b", "-x"])
def test_an_unusable_environment_is_named(environment: str) -> None:
    with pytest.raises(ReleaseError, match="environment"):
        release_file(environment)


@pytest.mark.parametrize(
    ("where", "branch"), [("--upload-pack=touch x", "main"), ("", "main"), (".", "a:b"), (".", "-f")]
)
def test_a_remote_or_branch_that_git_could_take_for_an_option_is_refused(where: str, branch: str) -> None:
    with pytest.raises(ReleaseError, match="not usable"):
        read_release(where, "staging", branch)


def test_what_is_released_is_checked(remote: Path) -> None:
    with pytest.raises(ReleaseError, match="verdict_sha256"):
        release(remote, "staging", published("a"), "trust me")


def test_no_remote_no_branch_and_no_git_are_told_apart(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleaseError, match="does not appear to be a git repository"):
        read_release(tmp_path / "nowhere.git", "staging")
    with pytest.raises(ReleaseError, match="couldn't find remote ref refs/heads/dev"):
        read_release(remote, "staging", "dev")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleaseError, match="install git"):
        read_release(remote, "staging")


def test_credentials_are_never_shown() -> None:
    url = "https://robot:s3cret@127.0.0.1:1/repo.git"
    with pytest.raises(ReleaseError, match=r"https://\*\*\*@127\.0\.0\.1:1/repo\.git") as caught:
        read_release(url, "staging")
    assert "s3cret" not in str(caught.value)
    assert without_credentials("x https://u:p@w@h/r and ssh://git@h/r") == "x https://***@h/r and ssh://***@h/r"
    assert without_credentials("'https://h/r?sig=s' is it? yes") == "'https://h/r?***' is it? yes"


def test_a_place_that_holds_something_else_is_not_made_a_remote(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("cat")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "photos", tmp_path / "file"):
        with pytest.raises(ReleaseError, match=path.name):
            ensure_local_remote(path)
    with pytest.raises(ReleaseError, match="cannot make the Git remote"):
        ensure_local_remote(tmp_path / "file" / "remote.git")
    assert list((tmp_path / "photos").iterdir()) == [tmp_path / "photos" / "cat.png"]


def test_nothing_is_left_in_the_temporary_folder(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    release(remote, "staging", published("a"), VERDICT)
    assert not list((tmp_path / "tmp").iterdir())
