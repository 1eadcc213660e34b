"""Of two releases at once one wins and the other is told; remotes that refuse, are late or say nothing."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from git_remote import VERDICT, commit_other_file, git, hold_pushes, outcome, published, wait_for_pushes

from troika.errors import ReleaseError, SupersededError
from troika.releases import git as git_module
from troika.releases.git import Repository
from troika.releases.pointer import (
    ensure_local_remote,
    read_history,
    read_release,
    release,
    rollback,
)


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


def test_a_silent_remote_is_given_up(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_pushes(remote)
    monkeypatch.setattr(git_module, "_SECONDS", 1)
    with pytest.raises(ReleaseError, match="did not answer in 1 s"):
        release(remote, "staging", published("a"), VERDICT)
    (remote.parent / "go").touch()


def test_a_local_remote_is_made_once_even_by_two_at_a_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(ensure_local_remote, tmp_path / "new" / "remote.git") for _ in range(4)]
        assert {future.result() for future in made} == {tmp_path / "new" / "remote.git"}
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "remote.git"]
    head = git("rev-parse", "HEAD", cwd=tmp_path / "new" / "remote.git")
    ensure_local_remote(tmp_path / "new" / "remote.git")
    assert git("rev-parse", "HEAD", cwd=tmp_path / "new" / "remote.git") == head
    assert git("symbolic-ref", "HEAD", cwd=tmp_path / "new" / "remote.git").strip() == "refs/heads/main"


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


def test_of_two_rollbacks_of_one_release_at_once_one_is_made(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two guards of a canary make them, when the first was slow."""
    commit, numbers = Repository.commit, count()

    def commit_of_another_second(self: Repository, *arguments: Any) -> str:
        *others, message = arguments
        return commit(self, *others, f"{message}\n{next(numbers)}\n")

    monkeypatch.setattr(Repository, "commit", commit_of_another_second)
    for letter in "abc":
        release(remote, "staging", published(letter), VERDICT)
    go = hold_pushes(remote)
    digest = published("c").digest
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(rollback, remote, "staging", only_from=digest) for _ in range(2)]
        wait_for_pushes(remote, 2)
        go.touch()
        outcomes = [outcome(future) for future in futures]
    now = read_release(remote, "staging")
    assert now is not None
    assert now.digest == published("b").digest
    assert len(read_history(remote, "staging")) == 4
    assert sum(isinstance(found, SupersededError) for found in outcomes) == 1, outcomes


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
