"""The Git pointer moves by single commits; of two releases at once one wins and the other is told."""

import shutil
import subprocess
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from troika.errors import ReleaseError, SupersededError
from troika.releases import git as git_module
from troika.releases.git import Repository, without_credentials
from troika.releases.pointer import (
    Release,
    ensure_local_remote,
    read_environments,
    read_history,
    read_release,
    release,
    release_file,
    rollback,
)
from troika.releases.store import PublishedModel

VERDICT = "sha256:" + "e" * 64
FILE = "manifests/serving/overlays/staging/release.yaml"


def published(letter: str, model: str = "tiny") -> PublishedModel:
    return PublishedModel(model, "sha256:" + letter * 64, "file:///store", created=True)


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def commit_other_file(remote: Path, name: str = "other.txt") -> None:
    """A colleague's commit."""
    clone = remote.parent / f"clone-{time.monotonic_ns()}"
    git("clone", "--quiet", str(remote), str(clone), cwd=remote.parent)
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text("hello\n")
    git("add", ".", cwd=clone)
    git("commit", "--quiet", "-m", "Other work", cwd=clone)
    git("push", "--quiet", cwd=clone)
    shutil.rmtree(clone)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return ensure_local_remote(tmp_path / "remote.git")


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


def hold_pushes(remote: Path) -> Path:
    """Make the remote keep every push waiting until the returned file exists."""
    go = remote.parent / "go"
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\ntouch "{remote.parent}/waiting-$$"\nwhile [ ! -e "{go}" ]; do sleep 0.01; done\n')
    hook.chmod(0o755)
    return go


def wait_for_pushes(remote: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(remote.parent.glob("waiting-*"))) < count:
        assert time.monotonic() < deadline, "the pushes did not arrive"
        time.sleep(0.01)


def outcome(future: Future[Any]) -> Any:
    return future.exception() or future.result()


@pytest.mark.parametrize("round_", range(3))
def test_of_two_releases_at_once_one_wins_and_the_other_is_superseded(remote: Path, round_: int) -> None:
    release(remote, "staging", published("0"), VERDICT)
    go = hold_pushes(remote)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(release, remote, "staging", published(x), VERDICT) for x in "ab"]
        wait_for_pushes(remote, 2)
        go.touch()
        outcomes = [outcome(future) for future in futures]
    winners = [found for found in outcomes if isinstance(found, tuple)]
    losers = [found for found in outcomes if isinstance(found, SupersededError)]
    assert len(winners) == len(losers) == 1, outcomes
    current = read_release(remote, "staging")
    assert current is not None
    assert current == winners[0][0]
    assert current.version == 2
    assert current.digest in str(losers[0])
    assert len(git("rev-list", "main", cwd=remote).split()) == 3
    assert not git("rev-list", "--merges", "main", cwd=remote)


def test_two_releases_of_the_same_model_at_once_are_one_release(remote: Path) -> None:
    go = hold_pushes(remote)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(release, remote, "staging", published("a"), VERDICT) for _ in range(2)]
        wait_for_pushes(remote, 2)
        go.touch()
        created = [future.result()[2] for future in futures]
    assert len(git("rev-list", "main", cwd=remote).split()) == 2
    assert True in created


def test_another_commit_in_between_is_built_upon(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push = Repository.push
    others = iter(["one.txt", "manifests/serving/overlays/production/release.yaml"])

    def late_push(self: Repository, commit: str) -> str | None:
        if name := next(others, None):
            commit_other_file(remote, name)
        return push(self, commit)

    monkeypatch.setattr(Repository, "push", late_push)
    current, commit, created = release(remote, "staging", published("a"), VERDICT)
    assert created
    assert read_release(remote, "staging") == current
    assert git("rev-parse", "main", cwd=remote).strip() == commit
    assert len(git("rev-list", "main", cwd=remote).split()) == 4
    assert "one.txt" in git("ls-tree", "--name-only", "main", cwd=remote)


def test_retries_are_bounded(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push, pushes = Repository.push, []

    def always_late(self: Repository, commit: str) -> str | None:
        pushes.append(commit)
        commit_other_file(remote, f"{len(pushes)}.txt")
        return push(self, commit)

    monkeypatch.setattr(Repository, "push", always_late)
    with pytest.raises(ReleaseError, match=r"(?s)2 pushes were rejected.*\[rejected\]"):
        release(remote, "staging", published("a"), VERDICT, attempts=2)
    assert len(pushes) == 2
    assert read_release(remote, "staging") is None


def test_a_push_whose_answer_was_lost_counts(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push = Repository.push

    def broken_push(self: Repository, commit: str) -> str | None:
        push(self, commit)
        return "connection broke"

    monkeypatch.setattr(Repository, "push", broken_push)
    _, commit, created = release(remote, "staging", published("a"), VERDICT)
    assert created
    assert git("rev-parse", "main", cwd=remote).strip() == commit


def test_a_refusal_of_the_remote_is_told_in_its_words_and_not_repeated(remote: Path) -> None:
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho x >> {remote.parent}/calls\necho no releases on Fridays\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ReleaseError, match="no releases on Fridays") as caught:
        release(remote, "staging", published("a"), VERDICT)
    assert not isinstance(caught.value, SupersededError)
    assert (remote.parent / "calls").read_text() == "x\n"


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


def test_a_silent_remote_is_given_up(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_pushes(remote)
    monkeypatch.setattr(git_module, "_SECONDS", 1)
    with pytest.raises(ReleaseError, match="did not answer in 1 s"):
        release(remote, "staging", published("a"), VERDICT)
    (remote.parent / "go").touch()


def test_credentials_are_never_shown() -> None:
    url = "https://robot:s3cret@127.0.0.1:1/repo.git"
    with pytest.raises(ReleaseError, match=r"https://\*\*\*@127\.0\.0\.1:1/repo\.git") as caught:
        read_release(url, "staging")
    assert "s3cret" not in str(caught.value)
    assert without_credentials("x https://u:p@w@h/r and ssh://git@h/r") == "x https://***@h/r and ssh://***@h/r"


def test_a_local_remote_is_made_once_even_by_two_at_a_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(ensure_local_remote, tmp_path / "new" / "remote.git") for _ in range(4)]
        assert {future.result() for future in made} == {tmp_path / "new" / "remote.git"}
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "remote.git"]
    head = git("rev-parse", "HEAD", cwd=tmp_path / "new" / "remote.git")
    ensure_local_remote(tmp_path / "new" / "remote.git")
    assert git("rev-parse", "HEAD", cwd=tmp_path / "new" / "remote.git") == head
    assert git("symbolic-ref", "HEAD", cwd=tmp_path / "new" / "remote.git").strip() == "refs/heads/main"


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


def state_of(remote: Path) -> str:
    return git("show", f"main:{FILE}", cwd=remote)


def revert(remote: Path, commit: str = "HEAD") -> None:
    """As a person does it, with git alone."""
    clone = remote.parent / f"clone-{time.monotonic_ns()}"
    git("clone", "--quiet", str(remote), str(clone), cwd=remote.parent)
    git("revert", "--no-edit", commit, cwd=clone)
    git("push", "--quiet", cwd=clone)
    shutil.rmtree(clone)


def test_a_rollback_is_what_git_revert_makes(remote: Path, tmp_path: Path) -> None:
    twin = ensure_local_remote(tmp_path / "twin.git")
    for where in (remote, twin):
        for letter in "abc":
            release(where, "staging", published(letter), VERDICT)
    revert(twin)
    back, commit, created = rollback(remote, "staging")
    assert (back.version, back.digest[-1], created) == (2, "b", True)
    assert state_of(remote) == state_of(twin)
    assert git("rev-parse", "main", cwd=remote).strip() == commit
    assert git("diff", "--name-only", "HEAD~1", "HEAD", cwd=remote).split() == [FILE]
    assert rollback(remote, "staging", 2)[2] is False
    assert rollback(remote, "staging")[0].version == 1
    with pytest.raises(ReleaseError, match="serves version 1, and there is none before it"):
        rollback(remote, "staging")
    # Any version can be gone to, also a later one.
    assert rollback(remote, "staging", 3)[0].digest[-1] == "c"
    with pytest.raises(ReleaseError, match=r"never had a version 7; it had 1, 2, 3"):
        rollback(remote, "staging", 7)
    with pytest.raises(ReleaseError, match="nothing has been released to production"):
        rollback(remote, "production")


def test_a_rollback_skips_what_was_taken_back_already(remote: Path) -> None:
    release(remote, "staging", published("a"), VERDICT)
    for letter in "bc":
        release(remote, "staging", published(letter), VERDICT)
        assert rollback(remote, "staging")[0].digest == published("a").digest


def test_a_rollback_only_from_a_digest_leaves_another_alone(remote: Path) -> None:
    for letter in "abc":
        release(remote, "staging", published(letter), VERDICT)
    with pytest.raises(SupersededError, match=r"was moved from sha256:bbb.* to sha256:ccc.* already"):
        rollback(remote, "staging", only_from=published("b").digest)
    assert rollback(remote, "staging", only_from=published("c").digest)[0].version == 2


def test_an_environment_that_has_had_nothing_yet(remote: Path) -> None:
    """kustomize must find a file before the first release."""
    commit_other_file(remote, FILE)
    with pytest.raises(ReleaseError, match="is not a ConfigMap"):
        read_release(remote, "staging")
    text = (Path(__file__).parents[2] / FILE).read_text()
    with Repository.of(remote, "main") as repository:
        commit = repository.commit(repository.pull(), FILE, text, "Nothing yet")
        assert repository.push(commit) is None
    assert read_release(remote, "staging") is None
    with pytest.raises(ReleaseError, match="nothing to go back to"):
        rollback(remote, "staging")
    assert release(remote, "staging", published("a"), VERDICT)[0].version == 1
    assert [past.release.version for past in read_history(remote, "staging")] == [1]


@pytest.mark.parametrize("undo", [revert, lambda remote: rollback(remote, "staging")])
def test_a_version_is_never_given_twice(remote: Path, undo: Any) -> None:
    for letter in "ab":
        release(remote, "staging", published(letter), VERDICT)
    undo(remote)
    new, _, _ = release(remote, "staging", published("c"), VERDICT)
    assert (new.version, new.previous_digest) == (3, published("a").digest)


def test_a_rollback_gives_way_to_a_release(remote: Path) -> None:
    for letter in "ab":
        release(remote, "staging", published(letter), VERDICT)
    go = hold_pushes(remote)
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(release, remote, "staging", published("c"), VERDICT),
            pool.submit(rollback, remote, "staging"),
        ]
        wait_for_pushes(remote, 2)
        go.touch()
        outcomes = [outcome(future) for future in futures]
    assert sum(isinstance(found, SupersededError) for found in outcomes) == 1, outcomes
    assert len(read_history(remote, "staging")) == 3


def test_the_history_tells_every_state(remote: Path) -> None:
    assert read_history(remote, "staging") == []
    assert read_environments(remote) == []
    for letter in "ab":
        release(remote, "staging", published(letter), VERDICT)
        commit_other_file(remote, f"{letter}.txt")
    release(remote, "production", published("a"), VERDICT)
    revert(remote, "HEAD~2")
    history = read_history(remote, "staging")
    assert [(past.release.version, past.release.digest[-1]) for past in history] == [(1, "a"), (2, "b"), (1, "a")]
    assert history[0].author == "Test"
    assert history[0].text == history[2].text == state_of(remote)
    assert len({past.commit for past in history}) == 3
    assert read_environments(remote) == ["production", "staging"]


def test_versions_are_counted_on_after_a_refusal_in_words_that_nobody_knows(remote: Path) -> None:
    """The server lost a race and says so in its own words; the next attempt must still see the whole history."""
    for letter in "ab":
        release(remote, "staging", published(letter), VERDICT)
    rollback(remote, "staging")
    other = git("commit-tree", "main^{tree}", "-p", "main", "-m", "Other work", cwd=remote).strip()
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    moved = f"env -u GIT_QUARANTINE_PATH git update-ref refs/heads/main {other}"
    hook.write_text(f"#!/bin/sh\nrm hooks/pre-receive\n{moved}\necho please wait your turn\nexit 1\n")
    hook.chmod(0o755)
    new, _, created = release(remote, "staging", published("c"), VERDICT)
    assert not hook.exists()
    assert (new.version, new.previous_digest, created) == (3, published("a").digest, True)
    assert "Other work" in git("log", "--format=%s", "main", cwd=remote)
