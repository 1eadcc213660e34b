"""Back to what was released before, and the history of an environment."""

from pathlib import Path
from typing import Any

import pytest
from git_remote import FILE, VERDICT, commit_other_file, git, published, revert, state_of

from troika.errors import ReleaseError, SupersededError
from troika.releases.git import Repository
from troika.releases.pointer import (
    ensure_local_remote,
    read_environments,
    read_history,
    read_release,
    release,
    rollback,
)


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
