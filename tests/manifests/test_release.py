"""A release changes one file of a real repository, and so the pods; `git revert` gives back the very bytes."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import MANIFESTS, objects, render, the

from troika.releases.canary_guard import DIGEST_ANNOTATION
from troika.releases.pointer import read_release, release, rollback
from troika.releases.store import PublishedModel

VERDICT = "sha256:" + "e" * 64


def published(letter: str, model: str = "digits") -> PublishedModel:
    return PublishedModel(store="s3://models", model=model, digest=f"sha256:{letter * 64}", created=True)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Deployments:
    """A repository that holds the manifests, as a Git server has it, and somebody's clone of it."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.remote = folder / "clone", folder / "deployments.git"
        shutil.copytree(MANIFESTS, self.clone / "manifests")
        git(self.clone, "init", "--quiet", "--initial-branch=main")
        git(self.clone, "add", "--all")
        git(self.clone, "commit", "--quiet", "--message=Begin")
        git(folder, "clone", "--quiet", "--bare", str(self.clone), str(self.remote))

    def pull(self) -> None:
        git(self.clone, "pull", "--quiet", str(self.remote), "main")

    def rendered(self, environment: str) -> str:
        self.pull()
        return render(self.clone / "manifests" / "serving" / "overlays" / environment)


@pytest.fixture
def deployments(tmp_path: Path) -> Deployments:
    return Deployments(tmp_path)


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_a_release_and_its_revert(deployments: Deployments) -> None:
    assert read_release(deployments.remote, "production") is None
    unset = deployments.rendered("production")
    staging = deployments.rendered("staging")

    first, commit, _ = release(deployments.remote, "production", published("a"), VERDICT)
    changed = git(deployments.remote, "diff-tree", "-r", "--no-commit-id", "--name-only", commit)
    assert changed == "manifests/serving/overlays/production/release.yaml"
    assert (first.version, first.previous_digest) == (1, None)
    with_a = deployments.rendered("production")
    # Nothing is left of what was there, and the digest stands in the template itself, not in what it refers to.
    assert "0" * 64 in unset
    assert "nothing-released" not in with_a
    things = objects(with_a)
    template = the(things, "Deployment")["spec"]["template"]
    assert strings(template).count(first.digest) == 3
    assert template["metadata"]["annotations"] == {
        "troika/model": "digits", "troika/model-version": "1", DIGEST_ANNOTATION: first.digest
    }  # fmt: skip
    probes = template["spec"]["containers"][0]
    assert {probes[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {
        "/v2/models/digits/ready"
    }
    assert strings(the(things, "AnalysisTemplate", "smoke")).count(first.digest) == 2
    assert not [t for t in things if t["kind"] == "ConfigMap" and t["metadata"]["name"] == "model-release"]

    letters = published("b", model="letters")
    second, commit, _ = release(deployments.remote, "production", letters, VERDICT, replace=True)
    with_b = deployments.rendered("production")
    different = [(a, b) for a, b in zip(with_a.splitlines(), with_b.splitlines(), strict=True) if a != b]
    assert all(any(word in b for word in (second.digest, "letters", '"2"')) for _, b in different), different
    assert len(different) == 15  # Three of them are what the quality probe is told.

    git(deployments.clone, "revert", "--no-edit", commit)
    git(deployments.clone, "push", "--quiet", str(deployments.remote), "HEAD:main")
    assert deployments.rendered("production") == with_a
    assert read_release(deployments.remote, "production") == first
    # The first release can be taken back, too: nothing is released then.
    git(deployments.clone, "revert", "--no-edit", "HEAD~2")
    git(deployments.clone, "push", "--quiet", str(deployments.remote), "HEAD:main")
    assert deployments.rendered("production") == unset
    assert read_release(deployments.remote, "production") is None
    # No version is given twice, and nobody else has noticed.
    assert release(deployments.remote, "production", published("c"), VERDICT)[0].version == 3
    assert deployments.rendered("staging") == staging


def test_a_rollback_gives_back_the_very_bytes(deployments: Deployments) -> None:
    release(deployments.remote, "local-kind", published("a"), VERDICT)
    with_a = deployments.rendered("local-kind")
    release(deployments.remote, "local-kind", published("b"), VERDICT)
    assert deployments.rendered("local-kind") != with_a
    rollback(deployments.remote, "local-kind")
    assert deployments.rendered("local-kind") == with_a


def test_a_file_of_nothing_released_has_the_keys_of_a_release(deployments: Deployments) -> None:
    """What kustomize replaces must be there before and after."""
    path = deployments.clone / "manifests" / "serving" / "overlays" / "staging" / "release.yaml"
    before = yaml.safe_load(path.read_text())
    release(deployments.remote, "staging", published("a"), VERDICT)
    deployments.pull()
    after = yaml.safe_load(path.read_text())
    assert before["data"].keys() == after["data"].keys()
    assert {**before, "data": {}} == {**after, "data": {}}
    for other in path.parents[1].glob("*/release.yaml"):
        assert yaml.safe_load(other.read_text())["data"].keys() == after["data"].keys()
