"""An environment serves one model: another name takes its place only where that is asked for."""

from pathlib import Path

import pytest
from git_remote import VERDICT, git, published

from troika.errors import ReleaseError
from troika.releases.pointer import last_of_each_model, read_history, release, rollback


def test_another_name_is_refused_and_nothing_changes(remote: Path) -> None:
    release(remote, "staging", published("a"), VERDICT)
    before = git("rev-parse", "main", cwd=remote)
    pictures = published("b", "pictures")
    with pytest.raises(ReleaseError, match="staging serves tiny, and a release of pictures would take it away"):
        release(remote, "staging", pictures, VERDICT)
    assert git("rev-parse", "main", cwd=remote) == before
    release(remote, "elsewhere", pictures, VERDICT)
    made, _, created = release(remote, "staging", pictures, VERDICT, replace=True)
    assert (created, made.model, made.version) == (True, "pictures", 2)
    # Of its own name again, and back by a rollback, which only makes the file what it was.
    release(remote, "staging", published("c", "pictures"), VERDICT)
    back, _, _ = rollback(remote, "staging", 1)
    assert back.model == "tiny"


def test_what_each_model_was_last_is_known(remote: Path) -> None:
    for letter, name in (("a", "tiny"), ("b", "tiny"), ("c", "pictures"), ("d", "pictures")):
        release(remote, "staging", published(letter, name), VERDICT, replace=True)
    last = last_of_each_model(read_history(remote, "staging"))
    assert {name: (past.version, past.digest[7]) for name, past in last.items()} == {
        "tiny": (2, "b"),
        "pictures": (4, "d"),
    }
