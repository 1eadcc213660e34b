"""What `troika follow` and `troika doctor` read from Kubernetes: a real API server, with what was seen of a run.

Kubeflow's API server is the fake with recorded answers; the workflow's node and its pod's events are those of the
recorded run whose training pod was deleted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubectl import Kubectl
from kubeflow_commands import troika
from pipelines_fake import FakeKubeflow, fake_kubeflow, recorded

from pipelines.workloads import Workloads
from troika.doctor import Surroundings, examine
from troika.doctor_kubeflow import Cluster, Finding

NAMESPACE = "words-of-a-run"
DELETED, DELETED_POD = "troika-train-and-release-pwncp", "2625549549"
RUNNING, WAITING_POD = "troika-train-and-release-d25dm", "4181024052"
NOT_SCHEDULED = "0/1 nodes are available: 1 Insufficient cpu."
WORKFLOWS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workflows.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"kind": "Workflow", "plural": "workflows"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def event(workflow: str, pod: str, reason: str, message: str, minute: int) -> dict[str, Any]:
    name = f"{workflow}-system-container-impl-{pod}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{minute}", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Pod", "name": name, "namespace": NAMESPACE},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": f"2026-11-28T06:{minute}:00Z",
    }


def workflow(phase: str, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": DELETED, "namespace": NAMESPACE},
        "status": {
            "nodes": {
                f"{DELETED}-{DELETED_POD}": {"phase": phase, "message": message, "displayName": "executor(0)"}
            }
        },
    }


@pytest.fixture(scope="module")
def kubernetes(api: Kubectl) -> Iterator[Kubectl]:
    api.apply([WORKFLOWS])
    api.wait("condition=Established", "customresourcedefinition/workflows.argoproj.io")
    api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    api.apply(
        [
            workflow("Error", "pod deleted"),
            event(DELETED, DELETED_POD, "Killing", "Stopping container main", 44),
            event(RUNNING, WAITING_POD, "FailedScheduling", NOT_SCHEDULED, 57),
            event(RUNNING, "1", "FailedScheduling", "words of another pod", 58),
        ]
    )
    yield api
    api.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture
def fake(kubernetes: Kubectl, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.config))
    monkeypatch.setattr("pipelines.connection.time.sleep", lambda _: None)
    with fake_kubeflow() as running:
        running.namespace = NAMESPACE
        yield running


def follow(fake: FakeKubeflow, *more: str) -> tuple[int, str]:
    return troika("follow", "r0", "--host", fake.url, "--namespace", NAMESPACE, *more)


def test_a_deleted_pod_is_told_in_the_words_of_argo_and_of_its_events(fake: FakeKubeflow) -> None:
    fake.plays = [recorded("run_train_pod_deleted")]
    status, output = follow(fake, "--no-retry")
    assert status == 1
    assert "train: pod deleted" in output
    assert "train: Killing: Stopping container main" in output
    assert "kubectl" not in output


def test_a_lost_pod_is_known_by_argos_words_and_another_failure_is_not_one(
    fake: FakeKubeflow, kubernetes: Kubectl
) -> None:
    fake.plays = [recorded("run_train_pod_deleted"), recorded("run_released")]
    assert follow(fake)[0] == 0
    assert fake.asked("POST", "/runs/r0:retry")
    fake.paths.clear()
    kubernetes.apply([workflow("Failed", "main: Error (exit code 1)")])
    fake.plays = [recorded("run_train_pod_deleted")]
    status, output = follow(fake)
    assert (status, fake.asked("POST", "/runs/r0:retry")) == (1, [])
    assert "train: main: Error (exit code 1)" in output
    kubernetes.apply([workflow("Error", "pod deleted")])


def test_a_pod_that_cannot_be_scheduled_is_told_in_the_words_of_the_scheduler(fake: FakeKubeflow) -> None:
    fake.plays = [recorded("run_running"), recorded("run_released")]
    output = follow(fake)[1]
    assert f"FailedScheduling: {NOT_SCHEDULED}" in output
    assert "words of another pod" not in output


def test_doctor_sees_the_claim_and_the_setting_for_lost_pods(fake: FakeKubeflow, kubernetes: Kubectl) -> None:
    def look() -> dict[str, Finding]:
        where = Cluster(fake.url, NAMESPACE, "state", controller_namespace=NAMESPACE)
        return {finding.name: finding for finding in examine(Surroundings(None, None, "main", kubeflow=where))}

    assert look()["training state"].said.startswith("there is no claim state")
    assert "cannot be seen" in look()["lost pods"].said
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "state", "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap", "namespace": NAMESPACE},
        "data": {"workflowDefaults": "spec: {templateDefaults: {retryStrategy: {retryPolicy: OnFailure}}}"},
    }
    kubernetes.apply([claim, settings])
    assert "claim state is pending (ReadWriteOnce)" in look()["training state"].said
    assert "does not start" in look()["lost pods"].said
    patch = (
        Path(__file__).parents[2]
        / "manifests"
        / "kubeflow"
        / "components"
        / "restart-lost-pods"
        / "configmap.yaml"
    )
    kubernetes.run("patch", "configmap", "workflow-controller-configmap", "-n", NAMESPACE, f"--patch-file={patch}")
    assert look()["lost pods"].outcome == "pass"


@pytest.mark.parametrize(
    "read",
    [
        lambda words: words.node_messages(DELETED),
        lambda words: words.pod_events(DELETED, f"{DELETED}-{DELETED_POD}"),
        lambda words: words.claim("state"),
        lambda words: words.controller_settings(),
    ],
)
def test_without_a_kubernetes_nothing_is_known_and_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Workloads], object]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    assert read(Workloads(NAMESPACE)) is None
