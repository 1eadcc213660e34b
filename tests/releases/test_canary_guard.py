"""What the canary has taken back in the cluster is taken back in Git; nothing else ever is.

The Git remote is real. The cluster's API is a fake, since there is no cluster.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kubernetes import DIGESTS, FakeKubernetes
from production import git
from typer.testing import CliRunner

from troika.releases import canary_guard
from troika.releases.pointer import ensure_local_remote, read_history, read_release, release
from troika.releases.store import PublishedModel

VERDICT = "sha256:" + "e" * 64


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Production has had a, then b."""
    made = ensure_local_remote(tmp_path / "remote.git")
    for letter in "ab":
        publish(made, letter)
    return made


def publish(remote: Path, letter: str) -> None:
    release(remote, "production", PublishedModel("digits", DIGESTS[letter], "s3://models", created=True), VERDICT)


def guard(cluster: FakeKubernetes, remote: Path, tmp_path: Path) -> tuple[int, str]:
    account = tmp_path / "account"
    account.mkdir(exist_ok=True)
    (account / "token").write_text("token-of-test\n")
    (account / "namespace").write_text("troika-production")
    application = canary_guard.typer.Typer()
    application.command()(canary_guard.main)
    result = CliRunner().invoke(
        application,
        ["--remote", str(remote), "--to", "production", "--kubernetes", cluster.url, "--account", str(account)],
    )
    return result.exit_code, result.output


def current(remote: Path) -> str:
    found = read_release(remote, "production")
    assert found is not None
    return found.digest


def test_nothing_happens_while_nothing_is_aborted(cluster: FakeKubernetes, remote: Path, tmp_path: Path) -> None:
    assert guard(cluster, remote, tmp_path) == (0, "triton: nothing was aborted\n")
    assert current(remote) == DIGESTS["b"]
    assert len(cluster.asked) == 1


def test_an_aborted_release_is_taken_back_once(cluster: FakeKubernetes, remote: Path, tmp_path: Path) -> None:
    before = read_history(remote, "production")[-1].text
    cluster.abort = True
    status, said = guard(cluster, remote, tmp_path)
    assert status == 0, said
    assert "production is back at 1" in said
    assert current(remote) == DIGESTS["a"]
    assert read_history(remote, "production")[0].text == before
    # Until Argo CD has caught up the Rollout is aborted still.
    status, said = guard(cluster, remote, tmp_path)
    assert status == 0
    assert "was moved from" in said
    assert len(read_history(remote, "production")) == 3


def test_what_was_released_meanwhile_stays(cluster: FakeKubernetes, remote: Path, tmp_path: Path) -> None:
    cluster.abort = True
    publish(remote, "c")
    assert guard(cluster, remote, tmp_path)[0] == 0
    assert current(remote) == DIGESTS["c"]


def test_it_goes_back_to_what_was_good_not_to_another_that_was_taken_back(
    cluster: FakeKubernetes, remote: Path, tmp_path: Path
) -> None:
    cluster.abort = True
    guard(cluster, remote, tmp_path)
    publish(remote, "c")
    cluster.current, cluster.sets["hash-c"] = "hash-c", DIGESTS["c"]
    assert guard(cluster, remote, tmp_path)[0] == 0
    assert current(remote) == DIGESTS["a"]


def test_an_abort_of_something_else_leaves_the_release(
    cluster: FakeKubernetes, remote: Path, tmp_path: Path
) -> None:
    """Requests of the pods were changed; the canary of that served the model that the stable pods serve."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    (clone / "requests.yaml").write_text("cpu: 8\n")
    git(clone, "add", "requests.yaml")
    git(clone, "commit", "--quiet", "--message", "Ask for eight CPUs")
    git(clone, "push", "--quiet")
    cluster.abort = True
    cluster.current, cluster.stable = "hash-more-cpu", "hash-b"
    cluster.sets["hash-more-cpu"] = DIGESTS["b"]
    status, said = guard(cluster, remote, tmp_path)
    assert current(remote) == DIGESTS["b"]
    assert (status, said.startswith("error: triton was aborted, and not for its model")) == (1, True), said
    assert "Ask for eight CPUs" in said
    assert "Release tiny" not in said
    assert "RolloutAborted: metric" in said


def test_an_abort_beside_stable_pods_of_an_unknown_model_leaves_the_release(
    cluster: FakeKubernetes, remote: Path, tmp_path: Path
) -> None:
    cluster.abort = True
    del cluster.sets["hash-a"]
    status, said = guard(cluster, remote, tmp_path)
    assert (status, "its stable pods 'hash-a' name no single model digest" in said) == (1, True), said
    assert current(remote) == DIGESTS["b"]


def test_the_first_roll_out_of_all_has_no_stable_pods(
    cluster: FakeKubernetes, remote: Path, tmp_path: Path
) -> None:
    cluster.abort, cluster.stable = True, ""
    status, said = guard(cluster, remote, tmp_path)
    assert (status, current(remote)) == (0, DIGESTS["a"]), said


def test_what_it_cannot_do_is_one_line_and_a_failed_job(cluster: FakeKubernetes, tmp_path: Path) -> None:
    remote = ensure_local_remote(tmp_path / "remote.git")
    publish(remote, "b")
    cluster.abort = True
    status, said = guard(cluster, remote, tmp_path)
    assert (status, said.startswith("error: production serves version 1, and there is none before it")) == (
        1,
        True,
    )
    cluster.sets = {}
    status, said = guard(cluster, remote, tmp_path)
    assert (status, "name no single model digest" in said) == (1, True)
    cluster.refuse = True
    status, said = guard(cluster, remote, tmp_path)
    assert (status, "Kubernetes refuses rollouts/triton: 403" in said) == (1, True)
    cluster.url = "http://127.0.0.1:1"
    status, said = guard(cluster, remote, tmp_path)
    assert (status, "Kubernetes does not answer at http://127.0.0.1:1" in said) == (1, True)
