"""What Kubeflow and Argo need of training's namespace: pods that do what driver, launcher and executor do."""

import json
from collections.abc import Callable, Iterator

import pytest
from kubectl import Object, remove_namespaces
from pods import small_pod, with_image
from whole import Cluster

NAMESPACE = "troika-training"


@pytest.fixture(scope="module")
def training(cluster: Cluster, renders: dict[str, list[Object]]) -> Iterator[Cluster]:
    """The namespace as people apply it, and whatever prepares its volume has ended."""
    things = with_image(renders["kubeflow/base"], cluster.busybox)
    cluster.kubectl.apply(things)
    for job in (t["metadata"]["name"] for t in things if t["kind"] == "Job"):
        cluster.kubectl.wait("condition=complete", f"job/{job}", f"--namespace={NAMESPACE}")
    yield cluster
    remove_namespaces(cluster.kubectl, [NAMESPACE])


def step(name: str, cluster: Cluster, script: str, **spec: object) -> Object:
    """Return a pod as Kubeflow makes one for a step: the account of the run, no fsGroup."""
    return small_pod(
        NAMESPACE, name, cluster.busybox, script,
        labels={"pipeline/runid": "some"}, serviceAccountName="troika-pipeline", **spec,
    )  # fmt: skip


@pytest.fixture
def outcome(training: Cluster) -> Callable[[Object], tuple[str, str]]:
    """Run a pod, the last of these objects, to its end; the phase, and what it has written."""

    def run(*things: Object) -> tuple[str, str]:
        name = things[-1]["metadata"]["name"]
        training.kubectl.apply(things)
        phase = training.kubectl.finished(NAMESPACE, name)
        return phase, training.kubectl.logs(NAMESPACE, name)

    return run


def report(name: str, cluster: Cluster, **spec: object) -> list[Object]:
    """Return a pod that reports a step's outputs as Argo's executor does: by client-go, with the pod's token."""
    result = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTaskResult",
        "metadata": {"name": name, "labels": {"workflows.argoproj.io/workflow": "run"}},
        "phase": "Succeeded",
    }
    file = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"result.json": json.dumps(result)},
    }
    pod = step(
        name, cluster, "",
        volumes=[{"name": "result", "configMap": {"name": name}}],
        volumeMounts=[{"name": "result", "mountPath": "/result"}],
        **spec,
    )  # fmt: skip
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflowtaskresults"
    pod["spec"]["containers"][0] |= {
        "image": cluster.kubectl_image,
        "command": ["/bin/kubectl", "create", f"--raw={path}", "--filename=/result/result.json"],
    }
    return [file, pod]


def test_a_step_reports_to_the_cluster(training: Cluster, outcome: Callable[..., tuple[str, str]]) -> None:
    """Argo mounts no token itself: the account must say that its pods get one."""
    phase, said = outcome(*report("reports", training))
    assert phase == "Succeeded", said
    assert training.kubectl.get("workflowtaskresult", "reports", NAMESPACE)["phase"] == "Succeeded"


def test_without_a_token_it_does_not(training: Cluster, outcome: Callable[..., tuple[str, str]]) -> None:
    phase, said = outcome(*report("silent", training, automountServiceAccountToken=False))
    assert phase == "Failed"
    assert "localhost:8080" in said  # where kubectl looks that finds no configuration


def test_a_step_writes_into_a_fresh_volume(training: Cluster, outcome: Callable[..., tuple[str, str]]) -> None:
    """As a cloud's disk comes, it belongs to root with mode 0755, and Kubeflow gives its pods no group for it."""
    volume = {"name": "training", "persistentVolumeClaim": {"claimName": "troika-training"}}
    mount = {"name": "training", "mountPath": "/training"}
    pod = step(
        "trains", training,
        "id; stat -c '%u:%g %a' /training; mkdir /training/run && echo step 7 > /training/run/state",
        volumes=[volume], volumeMounts=[mount],
    )  # fmt: skip
    phase, said = outcome(pod)
    assert phase == "Succeeded", said
    assert "uid=10001" in said
    # A pod that is started again goes on from it.
    again = step(
        "goes-on",
        training,
        "cat /training/run/state && rm -r /training/run",
        volumes=[volume],
        volumeMounts=[mount],
    )
    assert outcome(again) == ("Succeeded", "step 7\n")


def test_the_volume_of_the_test_is_as_a_fresh_disk(
    training: Cluster, outcome: Callable[..., tuple[str, str]]
) -> None:
    """Without what the manifests do to it, the user of the steps could not write there."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "untouched", "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    training.kubectl.apply([claim])
    pod = step(
        "fresh", training, "touch /volume/file",
        volumes=[{"name": "volume", "persistentVolumeClaim": {"claimName": "untouched"}}],
        volumeMounts=[{"name": "volume", "mountPath": "/volume"}],
    )  # fmt: skip
    phase, said = outcome(pod)
    assert (phase, "Permission denied" in said) == ("Failed", True), said
