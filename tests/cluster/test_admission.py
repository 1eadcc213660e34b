"""A real API server takes every object of every folder that is applied; what it must refuse, it refuses.

An API server and etcd are enough for all of it.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubectl import Kubectl, Object, RefusedError, remove_namespaces
from rendering import MANIFESTS, Template, roots, templates

FOLDERS = [folder.relative_to(MANIFESTS).as_posix() for folder in roots()]
SERVING = ["troika-local", "troika-staging", "troika-production"]
# Whose pods ask the cluster for something, and for what; every other account may do nothing.
# A rule: verbs, group, resources, names.
MAY: dict[tuple[str, str], set[tuple[str, str, str, str]]] = {
    ("troika-training", "troika-pipeline"): {
        ("create", "argoproj.io", "workflowtaskresults", ""),  # Argo's executor reports a step's outputs
        ("patch", "argoproj.io", "workflowtaskresults", ""),
        ("get", "", "configmaps", "kfp-launcher"),  # Kubeflow's launcher: where artifacts are
        ("get", "", "secrets", "mlpipeline-minio-artifact"),  # and the key to it
        ("get", "", "pods", ""),  # its driver: the pod's own uid
    },
    ("troika-production", "canary-guard"): {
        ("get", "argoproj.io", "rollouts", "triton"),
        ("list", "apps", "replicasets", ""),
    },
}


@pytest.fixture(scope="module")
def admitted(api: Kubectl, renders: dict[str, list[Object]]) -> Iterator[Kubectl]:
    """Everything is applied, by folder as people do."""
    # The namespace of a folder may come from another: training's ground before its pipeline.
    for folder in sorted(renders, key=lambda name: name == "kubeflow/pipeline"):
        api.apply(renders[folder])
    yield api
    names = {t["metadata"]["name"] for things in renders.values() for t in things if t["kind"] == "Namespace"}
    if api.list("nodes"):  # without controllers a namespace never ends
        remove_namespaces(api, sorted(names))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_second_apply_changes_nothing(admitted: Kubectl, renders: dict[str, list[Object]], folder: str) -> None:
    text = yaml.safe_dump_all(renders[folder])
    difference = admitted.run(
        "diff", "--server-side", "--field-manager=troika-test", "--filename=-", text=text, check=False
    )
    assert difference.returncode == 0, difference.stdout[-3000:] + difference.stderr[-3000:]
    # Neither does it ask for what somebody else has set meanwhile.
    admitted.apply(renders[folder])


def test_a_difference_and_a_conflict_are_seen(admitted: Kubectl, renders: dict[str, list[Object]]) -> None:
    (service,) = (
        copy.deepcopy(t)
        for t in renders["serving/overlays/staging"]
        if (t["kind"], t["metadata"]["name"]) == ("Service", "triton")
    )
    service["spec"]["selector"] = {"app.kubernetes.io/name": "other"}
    text = yaml.safe_dump(service)
    done = admitted.run(
        "diff", "--server-side", "--field-manager=troika-test", "--filename=-", text=text, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "app.kubernetes.io/name: other" in done.stdout
    with pytest.raises(RefusedError, match="conflict with"):
        admitted.apply([service], manager="somebody-else")


def test_a_spoilt_object_is_refused(admitted: Kubectl, renders: dict[str, list[Object]]) -> None:
    """The definitions hold schemas: an unknown field and a wrong type are told, for custom objects too."""
    spoilt = {
        "Deployment": ("spec", "replica", 1),
        "ScaledObject": ("spec", "maxReplicaCount", "many"),
        "Rollout": ("spec", "strategie", {}),
        "PrometheusRule": ("spec", "groups", {}),
        "ExternalSecret": ("spec", "refreshIntervall", "1h"),
    }
    for kind, (section, field, value) in spoilt.items():
        thing = copy.deepcopy(next(t for t in renders["serving/overlays/production"] if t["kind"] == kind))
        thing[section][field] = value
        with pytest.raises(RefusedError, match=field):
            admitted.apply([thing], "--dry-run=server")


def pods_of_templates(renders: dict[str, list[Object]]) -> list[tuple[Template, Object]]:
    """Return each template with the pod that a controller would make of it."""
    return [
        (
            template,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    **template.metadata,
                    "name": template.where.lower().replace("/", "-"),
                    "namespace": template.namespace,
                },
                "spec": {"restartPolicy": "Never", **template.spec},
            },
        )
        for things in renders.values()
        for template in templates(things)
    ]


def test_pods_of_all_templates_are_restricted(admitted: Kubectl, renders: dict[str, list[Object]]) -> None:
    """Pod Security admission refuses a pod, not the Deployment that asks for it: so the pods are asked for."""
    pods = pods_of_templates(renders)
    assert {t.where for t, _ in pods} >= {"Deployment/triton", "Deployment/quality-probe", "CronJob/canary-guard"}
    for _, pod in pods:
        admitted.apply([pod], "--dry-run=server")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec["securityContext"].pop("runAsNonRoot"),
        lambda spec: spec["securityContext"].pop("seccompProfile"),
        lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
        lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ],
    ids=["root", "seccomp", "capabilities", "escalation", "network", "folder"],
)
def test_a_pod_that_takes_more_is_refused(admitted: Kubectl, renders: dict[str, list[Object]], spoil: Any) -> None:
    for template, whole in pods_of_templates(renders):
        pod = copy.deepcopy(whole)
        spoil(pod["spec"])
        with pytest.raises(RefusedError, match='violates PodSecurity "restricted:latest"'):
            admitted.apply([pod], "--dry-run=server")
            pytest.fail(f"{template.namespace}: {template.where} was taken")


def accounts(renders: dict[str, list[Object]]) -> list[tuple[str, str]]:
    return sorted(
        (t["metadata"]["namespace"], t["metadata"]["name"])
        for things in renders.values()
        for t in things
        if t["kind"] == "ServiceAccount"
    )


def rules(kubectl: Kubectl, namespace: str) -> set[tuple[str, str, str, str]]:
    """Return what the cluster allows whoever asks, rule by rule."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    text = kubectl.run(
        "create", "--validate=false", "--filename=-", "--output=json", text=yaml.safe_dump(review)
    ).stdout
    return {
        (verb, group, resource, name)
        for rule in yaml.safe_load(text)["status"]["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }


def test_each_account_may_do_what_it_needs_and_nothing_else(
    admitted: Kubectl, renders: dict[str, list[Object]]
) -> None:
    everybody = rules(admitted.as_account("default", "nobody-binds-this"), "default")
    for namespace, name in accounts(renders):
        account = admitted.as_account(namespace, name)
        for where in {"default", "kube-system", "troika-training", *SERVING}:
            own = rules(account, where) - everybody
            expected = MAY.get((namespace, name), set()) if where == namespace else set()
            assert own == expected, f"{namespace}/{name} in {where}"
    assert set(MAY) <= set(accounts(renders))


def test_requests_of_the_pipelines_account(admitted: Kubectl) -> None:
    """The requests themselves, as driver, launcher and executor make them; and those that a thief would make."""
    where = "--namespace=troika-training"
    result = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTaskResult",
        "metadata": {"name": "run-1", "namespace": "troika-training"},
        "phase": "Succeeded",
    }
    account = admitted.as_account("troika-training", "troika-pipeline")
    account.run("create", "--validate=false", "--filename=-", text=yaml.safe_dump(result))
    # A patch by itself: kubectl's own `patch` would read the object first.
    account.run(
        "apply", "--server-side", "--validate=false", "--filename=-",
        text=yaml.safe_dump({**result, "message": "done"}),
    )  # fmt: skip
    admitted.delete("workflowtaskresult", "run-1", namespace="troika-training")
    for thing in ("configmap/kfp-launcher", "secret/mlpipeline-minio-artifact", "pod/any"):
        with pytest.raises(RefusedError, match="not found"):  # allowed, and not there
            account.run("get", thing, where)
    for refused in (
        ("get", "secret/release-git", where),
        ("get", "secrets", where),
        ("get", "configmaps", where),
        ("delete", "workflowtaskresult/run-1", where),
        ("delete", "pod/any", where),
        ("create", "token", "troika-pipeline", where),
        ("get", "pods", "--namespace=kubeflow"),
        ("get", "nodes"),
    ):
        with pytest.raises(RefusedError, match=r"Forbidden|forbidden"):
            account.run(*refused)


def test_requests_of_the_guards_account(admitted: Kubectl, renders: dict[str, list[Object]]) -> None:
    where = "--namespace=troika-production"
    account = admitted.as_account("troika-production", "canary-guard")
    account.run("get", "rollout/triton", where)
    account.run("get", "replicasets", where, "--selector=rollouts-pod-template-hash=abc")
    for refused in (
        ("get", "rollouts", where),
        ("patch", "rollout/triton", where, "--type=merge", '--patch={"spec": {"paused": true}}'),
        ("get", "secret/release-git", where),
        ("get", "rollout/triton", "--namespace=troika-staging"),
    ):
        with pytest.raises(RefusedError, match=r"Forbidden|forbidden"):
            account.run(*refused)
