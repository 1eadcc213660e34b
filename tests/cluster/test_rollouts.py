"""Argo Rollouts itself on production's manifests: it and Git share the objects, and an abort ends as Git should.

What the pods serve is not shown here: they only wait. The first judge of a canary is a Job that fails: its
image holds nothing that it could run.
"""

import base64
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from durations import shortened
from kubectl import Kubectl, Object, RefusedError, remove_namespaces
from machine import wait_for
from pods import small_pod, with_image
from quick import REPOSITORY
from rendering import the
from typer.testing import CliRunner
from whole import Cluster

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))

from fake_kubernetes import DIGESTS
from production import git

from troika.releases import canary_guard
from troika.releases.pointer import ensure_local_remote, read_release, release
from troika.releases.store import PublishedModel

NAMESPACE = "troika-production"
DIGEST = canary_guard.DIGEST_ANNOTATION
HASH = "rollouts-pod-template-hash"


class Production:
    """Production's objects, with pods that only wait, under a real controller of Rollouts."""

    def __init__(self, cluster: Cluster, rendered: list[Object]) -> None:
        self.kubectl = cluster.kubectl
        things = shortened(with_image(rendered, cluster.busybox))
        # Its job is done by the tests themselves, when they want it.
        self.things = [t for t in things if t["kind"] != "CronJob"]
        self.deployment = the(self.things, "Deployment")
        template = self.deployment["spec"]["template"]
        template["metadata"]["annotations"][DIGEST] = DIGESTS["a"]
        template["spec"] = small_pod(NAMESPACE, "any", cluster.busybox)["spec"]
        del template["spec"]["restartPolicy"]
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "model-store-read", "namespace": NAMESPACE},
            "stringData": {"credentials": "", "config": ""},
        }
        self.kubectl.apply([t for t in self.things if t["kind"] == "Namespace"])
        self.kubectl.apply([secret])
        self.kubectl.apply(self.things)
        self.wait("Healthy")

    def status(self) -> Any:
        return self.kubectl.get("rollout", "triton", NAMESPACE).get("status", {})

    def wait(self, phase: str) -> None:
        wait_for(lambda: self.status().get("phase") == phase and self._seen(), 180, f"Rollout {phase}")

    def _seen(self) -> bool:
        """Whether the status speaks of the template as it is now."""
        deployment = self.kubectl.get("deployment", "triton", NAMESPACE)
        return str(self.status().get("workloadObservedGeneration")) == str(deployment["metadata"]["generation"])

    def change(self, spoil: Callable[[Object], object]) -> None:
        """Apply a changed pod template, as a commit would."""
        changed = copy.deepcopy(self.deployment)
        spoil(changed["spec"]["template"])
        self.kubectl.apply([changed])

    def aborted(self) -> None:
        """Wait for the end of a canary that its judge refuses."""
        wait_for(lambda: self.status().get("abort"), 240, "abort")

    def back(self) -> None:
        """Apply the first template again."""
        self.kubectl.apply([self.deployment])
        self.wait("Healthy")


@pytest.fixture(scope="module")
def production(cluster: Cluster, renders: dict[str, list[Object]]) -> Iterator[Production]:
    machine = cluster.machine
    if machine is None or cluster.binaries is None:
        pytest.skip("the cluster was not started here, and Argo Rollouts with it")
    config = yaml.safe_load((machine.folder / "admin-inside.kubeconfig").read_text())
    config["contexts"][0]["context"]["namespace"] = "argo-rollouts"
    (machine.folder / "rollouts.kubeconfig").write_text(yaml.safe_dump(config))
    metadata = {"name": "argo-rollouts"}
    cluster.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    machine.start(
        "rollouts-controller", cluster.binaries["rollouts-controller"],
        f"--kubeconfig={machine.folder}/rollouts.kubeconfig", "--leader-elect=false",
        "--metricsport=18090", "--healthzPort=18080",
    )  # fmt: skip
    yield Production(cluster, renders["serving/overlays/production"])
    remove_namespaces(cluster.kubectl, [NAMESPACE])
    machine.stop("rollouts-controller")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Production has had model a; b is what a test releases."""
    made = ensure_local_remote(tmp_path / "remote.git")
    publish(made, "a")
    return made


def publish(remote: Path, letter: str) -> None:
    model = PublishedModel("digits", DIGESTS[letter], "s3://models", created=True)
    release(remote, "production", model, "sha256:" + "e" * 64)


def current(remote: Path) -> str:
    found = read_release(remote, "production")
    assert found is not None
    return found.digest


def guard(kubectl: Kubectl, remote: Path, folder: Path) -> tuple[int, str]:
    """Run the guard as its CronJob does: with its own account's token, and nothing else."""
    account = folder / "account"
    account.mkdir(exist_ok=True)
    token = kubectl.run("create", "token", "canary-guard", f"--namespace={NAMESPACE}").stdout
    cluster = yaml.safe_load(kubectl.config.read_text())["clusters"][0]["cluster"]
    (account / "token").write_text(token)
    (account / "namespace").write_text(NAMESPACE)
    (account / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    application = canary_guard.typer.Typer()
    application.command()(canary_guard.main)
    done = CliRunner().invoke(
        application,
        [
            "--remote", str(remote), "--to", "production", "--kubernetes", cluster["server"],
            "--account", str(account),
        ],
    )  # fmt: skip
    return done.exit_code, done.output


def selectors(kubectl: Kubectl) -> list[Any]:
    return [
        kubectl.get("service", name, NAMESPACE)["spec"].get("selector", {}).get(HASH)
        for name in ("triton-stable", "triton-canary")
    ]


def test_git_and_rollouts_do_not_take_fields_from_each_other(production: Production) -> None:
    kubectl = production.kubectl
    wait_for(lambda: all(selectors(kubectl)), 60, "selectors of Services")
    before = selectors(kubectl)
    text = yaml.safe_dump_all(production.things)
    done = kubectl.run(
        "diff", "--server-side", "--field-manager=troika-test", "--filename=-", text=text, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    kubectl.apply(production.things)
    assert selectors(kubectl) == before


def test_a_selector_in_git_would_be_a_conflict(production: Production) -> None:
    wait_for(lambda: all(selectors(production.kubectl)), 60, "selectors of Services")
    service = copy.deepcopy(the(production.things, "Service", "triton-canary"))
    service["spec"]["selector"] = {"app.kubernetes.io/name": "triton"}
    with pytest.raises(RefusedError, match=r"conflict with .*\.spec\.selector"):
        production.kubectl.apply([service])


def test_nothing_aborted_is_nothing_to_do(production: Production, remote: Path, tmp_path: Path) -> None:
    assert guard(production.kubectl, remote, tmp_path) == (0, "triton: nothing was aborted\n")


def test_an_aborted_release_is_taken_back_in_git(production: Production, remote: Path, tmp_path: Path) -> None:
    publish(remote, "b")
    production.change(lambda template: template["metadata"]["annotations"].update({DIGEST: DIGESTS["b"]}))
    production.aborted()
    status, said = guard(production.kubectl, remote, tmp_path)
    assert (status, current(remote)) == (0, DIGESTS["a"]), said
    production.back()


def test_an_abort_of_another_change_leaves_the_release(
    production: Production, remote: Path, tmp_path: Path
) -> None:
    """A commit that changed only requests made a canary of the same model, and that was aborted."""
    publish(remote, "b")  # by whatever came before: there would be something to go back to
    publish(remote, "a")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    (clone / "requests.yaml").write_text("cpu: 6m\n")
    git(clone, "add", "requests.yaml")
    git(clone, "commit", "--quiet", "--message", "Ask for more CPU")
    git(clone, "push", "--quiet")
    production.change(lambda template: template["spec"]["containers"][0]["resources"]["requests"].update(cpu="6m"))
    production.aborted()
    status, said = guard(production.kubectl, remote, tmp_path)
    assert (status, current(remote)) == (1, DIGESTS["a"]), said
    assert "not for its model" in said
    assert "Ask for more CPU" in said
    production.back()
