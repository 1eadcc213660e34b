"""What is broken on purpose is refused: by the rules, the schemas, the list of the network, kustomize, checkov."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check
import network
import pytest
import rules
import schemas
import yaml
from click.testing import Result
from rendering import MANIFESTS, Object, RenderError, pod, render, the
from typer.testing import CliRunner

# One broken thing each, and words of the complaint.


def _no_seccomp(things: list[Object]) -> None:
    del pod(things)["securityContext"]["seccompProfile"]


def _root(things: list[Object]) -> None:
    pod(things)["securityContext"]["runAsUser"] = 0


def _may_be_root(things: list[Object]) -> None:
    pod(things)["containers"][0]["securityContext"]["runAsNonRoot"] = False


def _escalation(things: list[Object]) -> None:
    del pod(things)["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"]


def _capability(things: list[Object]) -> None:
    pod(things)["containers"][0]["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]


def _keeps_capabilities(things: list[Object]) -> None:
    del pod(things)["containers"][0]["securityContext"]["capabilities"]["drop"]


def _privileged(things: list[Object]) -> None:
    pod(things)["containers"][0]["securityContext"]["privileged"] = True


def _host_network(things: list[Object]) -> None:
    pod(things)["hostNetwork"] = True


def _host_path(things: list[Object]) -> None:
    pod(things)["volumes"][0] = {"name": "models", "hostPath": {"path": "/"}}


def _host_port(things: list[Object]) -> None:
    pod(things)["containers"][1]["ports"][0]["hostPort"] = 80


def _writable_root(things: list[Object]) -> None:
    pod(things)["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def _tag(things: list[Object]) -> None:
    pod(things)["containers"][0]["image"] = "registry.example/troika-serve:latest"


def _no_registry(things: list[Object]) -> None:
    pod(things)["containers"][0]["image"] = "troika-serve"


def _token(things: list[Object]) -> None:
    del pod(things)["automountServiceAccountToken"]


def _default_account(things: list[Object]) -> None:
    del pod(things)["serviceAccountName"]


def _boundless_volume(things: list[Object]) -> None:
    pod(things)["volumes"][1]["emptyDir"] = {}


def _no_limit(things: list[Object]) -> None:
    del pod(things)["containers"][0]["resources"]["limits"]["memory"]


def _secret_in_environment(things: list[Object]) -> None:
    value = {"secretKeyRef": {"name": "model-store-read", "key": "credentials"}}
    pod(things)["initContainers"][0]["env"].append({"name": "KEY", "valueFrom": value})


def _missing_config(things: list[Object]) -> None:
    things.remove(the(things, "ConfigMap", "model-verify-key"))


def _missing_account(things: list[Object]) -> None:
    things.remove(the(things, "ServiceAccount"))


def _unused_volume(things: list[Object]) -> None:
    pod(things)["volumes"].append({"name": "more", "emptyDir": {"sizeLimit": "1Mi"}})


def _service_without_pods(things: list[Object]) -> None:
    the(things, "Service")["spec"]["selector"] = {"app.kubernetes.io/name": "tritan"}


def _service_without_port(things: list[Object]) -> None:
    the(things, "Service")["spec"]["ports"][0]["targetPort"] = "https"


def _budget_of_nobody(things: list[Object]) -> None:
    the(things, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] = {"app": "triton"}


def _open_namespace(things: list[Object]) -> None:
    the(things, "Namespace", "troika-production")["metadata"]["labels"] = {}


def _no_namespace(things: list[Object]) -> None:
    del the(things, "Service")["metadata"]["namespace"]


def _twice(things: list[Object]) -> None:
    things.append(the(things, "Service"))


def _account_with_token(things: list[Object]) -> None:
    the(things, "ServiceAccount")["automountServiceAccountToken"] = True


def _wildcard(things: list[Object]) -> None:
    things.append(_role([{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]))


def _all_secrets(things: list[Object]) -> None:
    things.append(_role([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]))


def _cluster_role(things: list[Object]) -> None:
    things.append({**_role([]), "kind": "ClusterRole"})


def _role(rights: list[dict[str, Any]]) -> Object:
    metadata = {"name": "strong", "namespace": "troika-production"}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rights}


def _unexplained_skip(things: list[Object]) -> None:
    the(things, "Service")["metadata"]["annotations"] = {"checkov.io/skip1": "CKV_K8S_21"}


def _not_replaced(things: list[Object]) -> None:
    pod(things)["containers"][0]["env"][0]["value"] = "unset"


def _smoke_as_root(things: list[Object]) -> None:
    job = the(things, "AnalysisTemplate", "smoke")["spec"]["metrics"][0]["provider"]["job"]["spec"]
    job["template"]["spec"]["securityContext"]["runAsUser"] = 0


def _no_number(things: list[Object]) -> None:
    the(things, "PodDisruptionBudget")["spec"]["maxUnavailable"] = "one%"


def _probe(things: list[Object]) -> Any:
    return the(things, "Deployment", "quality-probe")["spec"]["template"]["spec"]["containers"][0]


def _variable(things: list[Object], name: str) -> Any:
    (found,) = [variable for variable in _probe(things)["env"] if variable["name"] == name]
    return found


def _git_without_a_key(things: list[Object]) -> None:
    _probe(things)["env"].remove(_variable(things, "GIT_SSH_COMMAND"))


def _git_that_may_ask(things: list[Object]) -> None:
    variable = _variable(things, "GIT_SSH_COMMAND")
    variable["value"] = variable["value"].replace("BatchMode=yes", "BatchMode=no")


def _git_key_that_no_secret_holds(things: list[Object]) -> None:
    secret = the(things, "ExternalSecret", "release-repository-read")
    secret["spec"]["data"] = [{**entry, "secretKey": "credentials"} for entry in secret["spec"]["data"]]


def _git_key_that_is_not_mounted(things: list[Object]) -> None:
    mounts = _probe(things)["volumeMounts"]
    mounts[:] = [mount for mount in mounts if mount["mountPath"] != "/secrets/git"]


def _git_by_https(things: list[Object]) -> None:
    _variable(things, "TROIKA_RELEASE_REMOTE")["value"] = "https://git.example/platform/deployments.git"


def _one_job_at_a_time(things: list[Object]) -> None:
    the(things, "CronJob", "canary-guard")["spec"]["concurrencyPolicy"] = "Forbid"


def _jobs_without_end(things: list[Object]) -> None:
    del the(things, "CronJob", "canary-guard")["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]


def _selector_that_rollouts_writes(things: list[Object]) -> None:
    the(things, "Service", "triton-canary")["spec"]["selector"] = {"app.kubernetes.io/name": "triton"}


def _port_that_the_canary_lacks(things: list[Object]) -> None:
    the(things, "Service", "triton-canary")["spec"]["ports"][0]["targetPort"] = "https"


def _service_without_selector(things: list[Object]) -> None:
    del the(things, "Service")["spec"]["selector"]


RULES = [
    (_selector_that_rollouts_writes, "Service/triton-canary: Argo Rollouts writes its selector"),
    (_port_that_the_canary_lacks, "Service/triton-canary: its pods have no port https"),
    (_service_without_selector, "Service/triton: selects no pod of this folder"),
    (_one_job_at_a_time, "a pod that never starts holds up all that follow"),
    (_jobs_without_end, "CronJob/canary-guard: activeDeadlineSeconds must be set"),
    (_git_without_a_key, "Deployment/quality-probe: probe asks git@git.example:platform/deployments.git by ssh"),
    (_git_that_may_ask, "name not no questions"),
    (_git_key_that_no_secret_holds, "no secret puts the server's keys at /secrets/git/known_hosts"),
    (_git_key_that_is_not_mounted, "no secret puts a key at /secrets/git/ssh-privatekey"),
    (_git_by_https, "by https, and its settings of Git name not credentials"),
    (_no_number, "maxUnavailable must be a number or a percentage"),
    (_no_seccomp, "seccompProfile must be RuntimeDefault"),
    (_root, "runAsUser must not be 0"),
    (_may_be_root, "runAsNonRoot must be true"),
    (_escalation, "model-fetch: allowPrivilegeEscalation must be false"),
    (_capability, "may add NET_BIND_SERVICE only"),
    (_keeps_capabilities, "must drop ALL"),
    (_privileged, "is privileged"),
    (_host_network, "hostNetwork must not be set"),
    (_host_path, "is a hostPath"),
    (_host_port, "hostPort must not be set"),
    (_writable_root, "readOnlyRootFilesystem must be true"),
    (_tag, "must be registry/name@sha256"),
    (_no_registry, "must be registry/name@sha256"),
    (_token, "automountServiceAccountToken must be false"),
    (_default_account, "must name an account of its own"),
    (_boundless_volume, "emptyDir without sizeLimit"),
    (_no_limit, "resources.limits lacks memory"),
    (_secret_in_environment, "mount it"),
    (_missing_config, "ConfigMap model-verify-key is not there"),
    (_missing_account, "ServiceAccount triton is not there"),
    (_unused_volume, "volumes and mounts differ: more"),
    (_service_without_pods, "Service/triton: selects no pod"),
    (_service_without_port, "have no port https"),
    (_budget_of_nobody, "PodDisruptionBudget/triton: selects no pod"),
    (_open_namespace, "enforce must be restricted"),
    (_no_namespace, "Service/triton: no namespace"),
    (_twice, "there twice"),
    (_account_with_token, "ServiceAccount/triton: automountServiceAccountToken"),
    (_wildcard, "a wildcard"),
    (_all_secrets, "secrets must be named"),
    (_cluster_role, "rights in the whole cluster"),
    (_unexplained_skip, "must be CKV_K8S_<number>=<reason>"),
    (_not_replaced, "a replacement is missing"),
    (_smoke_as_root, "Job/smoke-golden-images: model-fetch: runAsUser must not be 0"),
]


@pytest.mark.parametrize(("spoil", "words"), RULES, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_refuses(production: list[Object], spoil: Callable[[list[Object]], None], words: str) -> None:
    assert rules.problems(production) == []
    spoil(production)
    found = rules.problems(production)
    assert any(words in problem for problem in found), found


def test_schemas_refuse_an_unknown_property_of_each_kind(renders: dict[str, list[Object]], crds: Path) -> None:
    """One object of each kind that is applied, whole and then with a word too many."""
    kinds = {(t["apiVersion"], t["kind"]): t for things in renders.values() for t in things}
    assert len(kinds) >= 19
    for (api, kind), thing in kinds.items():
        assert schemas.problems([thing], crds) == []
        spoilt = copy.deepcopy(thing)
        spoilt.get("spec", spoilt)["replicass"] = 3
        found = schemas.problems([spoilt], crds)
        assert any("replicass" in problem for problem in found), (api, kind, found)
        versions = [version for version in schemas.VERSIONS if any(f"Kubernetes {version}" in p for p in found)]
        assert schemas.is_custom(thing) or versions == list(schemas.VERSIONS)


def test_schemas_refuse_wrong_values_unknown_kinds_and_unknown_metadata(
    production: list[Object], crds: Path
) -> None:
    the(production, "Deployment")["spec"]["minReadySeconds"] = "ten"
    the(production, "ScaledObject")["spec"]["fallback"]["behavior"] = "hope"
    the(production, "Service")["metadata"]["label"] = {}
    job = the(production, "AnalysisTemplate", "smoke")["spec"]["metrics"][0]["provider"]["job"]["spec"]
    job["template"]["spec"]["containers"][0]["imge"] = "x"
    production.append({"apiVersion": "example.com/v1", "kind": "Gate", "metadata": {"name": "new"}})
    production.append({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "old"}})
    found = schemas.problems(production, crds)
    for words in (
        "minReadySeconds: 'ten'", "fallback.behavior: 'hope'", "Service/triton: metadata has label", "imge",
        "no schema for example.com/v1 Gate", "Kubernetes 1.32 has no policy/v1beta1",
    ):  # fmt: skip
        assert any(words in problem for problem in found), (words, found)


def _to_everybody(policies: dict[str, Any]) -> None:
    policies["triton"]["spec"]["ingress"][0]["from"].append({"namespaceSelector": {}})


def _without_default_deny(policies: dict[str, Any]) -> None:
    policies["default-deny"]["spec"]["policyTypes"] = ["Egress"]


def _any_port(policies: dict[str, Any]) -> None:
    del policies["triton"]["spec"]["ingress"][1]["ports"]


def _to_a_stranger(policies: dict[str, Any]) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "somewhere"}}}
    policies["triton"]["spec"]["ingress"][0]["from"].append(peer)


def _private_addresses(policies: dict[str, Any]) -> None:
    del policies["model-store"]["spec"]["egress"][0]["to"][0]["ipBlock"]["except"]


def _closed(policies: dict[str, Any]) -> None:
    del policies["triton"]["spec"]["ingress"][1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_to_everybody, "stranger-elsewhere -> troika-production/triton 8000/TCP is open"),
        (_without_default_deny, "stranger-elsewhere -> troika-production/stranger"),
        (_any_port, "prometheus -> troika-production/triton 8000/TCP is open"),
        (_to_a_stranger, "is nobody in network.yaml"),
        (_private_addresses, "troika-production/triton -> cloud-metadata 443/TCP is open"),
        (_closed, "prometheus -> troika-production/triton 8002/TCP is in network.yaml, and closed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_changed_policy_is_seen(
    renders: dict[str, list[Object]], production: list[Object], spoil: Callable[[dict[str, Any]], None], words: str
) -> None:
    spoil({t["metadata"]["name"]: t for t in production if t["kind"] == "NetworkPolicy"})
    found = network.differences({**renders, "serving/overlays/production": production})
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("remote", "way"),
    [
        ("git@git.example:platform/deployments.git", 22),
        ("ssh://git@git.example/platform/deployments.git", 22),
        ("ssh://git@git.example:7999/platform/deployments.git", 7999),
        ("https://git.example:8443/platform/deployments.git", 8443),
        ("http://git.example/deployments.git", 80),
    ],
)
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_way_to_git_that_is_closed_is_seen(
    renders: dict[str, list[Object]], environment: str, remote: str, way: int
) -> None:
    name = f"serving/overlays/{environment}"
    things = copy.deepcopy(renders[name])
    _variable(things, "TROIKA_RELEASE_REMOTE")["value"] = remote
    policy = the(things, "NetworkPolicy", "quality-probe-git")
    words = f"troika-{environment}/quality-probe asks Git at {remote}, and no policy lets it out at {way}/TCP"
    closed = [words in problem for problem in network.differences({**renders, name: things})]
    assert any(closed) == (way != 22)
    policy["spec"]["egress"][0]["ports"][0]["port"] = 2022
    assert any(words in problem for problem in network.differences({**renders, name: things}))


def test_what_does_not_render_is_told_in_kustomizes_words(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nresources: [nowhere.yaml]\n")
    with pytest.raises(RenderError, match=r"nowhere\.yaml"):
        render(tmp_path)


def test_patches_without_a_named_target_are_refused(tmp_path: Path) -> None:
    content = {
        "kind": "Kustomization",
        "patches": [{"patch": "- {}"}, {"path": "x.yaml", "target": {"kind": "Service"}}],
    }
    content["patchesStrategicMerge"] = ["y.yaml"]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    found = rules.patch_targets(tmp_path)
    assert [
        words in " ".join(found) for words in ("has given that up", "without a file", "must have version")
    ] == [True] * 3


def test_checkov_refuses_what_it_should(production: list[Object]) -> None:
    """One call for all, since each takes long; it must find the Job inside an AnalysisTemplate, too."""
    del pod(production)["containers"][0]["livenessProbe"]
    job = the(production, "AnalysisTemplate", "smoke")["spec"]["metrics"][0]["provider"]["job"]["spec"]
    job["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    found = check.scan({"production": production})
    assert any("Deployment" in problem and "CKV_K8S_8:" in problem for problem in found), found
    assert any("Job" in problem and "CKV_K8S_22:" in problem for problem in found), found


def run_check(*arguments: str) -> Result:
    application = check.typer.Typer()
    application.command()(check.main)
    return CliRunner().invoke(application, list(arguments))


def test_the_command_names_what_is_wrong_and_fails(
    monkeypatch: pytest.MonkeyPatch, renders: dict[str, list[Object]]
) -> None:
    """checkov is asked above; each question to it takes long."""
    monkeypatch.setattr(check, "scan", lambda renders: [])
    monkeypatch.setattr(check, "render_objects", lambda folder: renders[folder.relative_to(MANIFESTS).as_posix()])
    staging = str(MANIFESTS / "serving" / "overlays" / "staging")
    assert run_check(staging).exit_code == 0
    done = run_check(staging, "--deployable")
    assert (done.exit_code, "signing.pub is empty" in done.output) == (1, True)
    spoilt = copy.deepcopy(renders["serving/overlays/staging"])
    pod(spoilt)["hostNetwork"] = True
    monkeypatch.setattr(check, "render_objects", lambda folder: spoilt)
    done = run_check(staging)
    assert (done.exit_code, "Deployment/triton: hostNetwork must not be set" in done.output) == (1, True)
    monkeypatch.setattr(check, "scan", lambda renders: ["staging.yaml: Pod: CKV_K8S_1"])
    assert "CKV_K8S_1" in run_check(staging).output


def test_ci_never_goes_without_the_schemas_of_custom_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(check.CRDS, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert check.crds() is None
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit, match=check.CRDS):
        check.crds()
