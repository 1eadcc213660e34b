"""Every folder that is applied is right, by schemas and rules; what is broken on purpose is refused."""

import copy
import shutil
from pathlib import Path

import check
import network
import pytest
import rules
import schemas
import yaml
from quick import REPOSITORY
from rendering import MANIFESTS, Object, pod, render_objects, roots, the

SERVING = MANIFESTS / "serving" / "overlays"


def test_all_folders_are_right_by_schemas_and_rules(renders: dict[str, list[Object]], crds: Path) -> None:
    found = {name: check.problems(things, crds) for name, things in renders.items()}
    assert not any(found.values()), found


def test_every_overlay_and_component_is_among_what_is_rendered(renders: dict[str, list[Object]]) -> None:
    overlays = {f"serving/overlays/{folder.name}" for folder in SERVING.iterdir()}
    assert {"serving/overlays/local-kind", "serving/overlays/staging", "serving/overlays/production"} <= overlays
    assert overlays < set(renders)
    used = {
        (folder / component).resolve()
        for folder in roots()
        for component in yaml.safe_load((folder / "kustomization.yaml").read_text()).get("components", [])
    }
    unused = {folder.name for folder in (MANIFESTS / "serving" / "components").iterdir() if folder not in used}
    assert unused == {"gpu"}  # rendered below


def test_production_on_gpus(tmp_path: Path, crds: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    file = tmp_path / "manifests" / "serving" / "overlays" / "production" / "kustomization.yaml"
    text = file.read_text()
    file.write_text(
        text.replace(
            "- ../../components/canary-rollout", "- ../../components/gpu\n- ../../components/canary-rollout"
        )
    )
    things = render_objects(file.parent)
    assert check.problems(things, crds) == []
    container = pod(things)["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "TROIKA_GRAPH_BACKEND", "value": "cuda"} in container["env"]


def test_local_kind_needs_no_operator(renders: dict[str, list[Object]]) -> None:
    custom = [t["kind"] for t in renders["serving/overlays/local-kind"] if schemas.is_custom(t)]
    assert custom == []


def test_ways_of_the_network_are_those_that_are_listed(renders: dict[str, list[Object]]) -> None:
    assert network.differences(renders) == []


def test_no_pod_of_training_reaches_triton(renders: dict[str, list[Object]]) -> None:
    ways = network.open_pairs(network.cluster_of(renders, network.load()))
    assert [way for way in ways if way[0].startswith("troika-training/") and way[1].endswith("/triton")] == []


def test_each_namespace_that_serves_says_that_a_model_is_expected(renders: dict[str, list[Object]]) -> None:
    """Alerts on absence start from that series, so its label must be the namespace's own name."""
    for environment in ("staging", "production"):
        (rule,) = [t for t in renders[f"serving/overlays/{environment}"] if t["kind"] == "PrometheusRule"]
        (group,) = rule["spec"]["groups"]
        (record,) = group["rules"]
        assert record["record"] == "troika:serving:expected"
        assert record["labels"] == {"namespace": rule["metadata"]["namespace"]}
        assert record["labels"]["namespace"] == f"troika-{environment}"


def test_rules_are_loaded_once(renders: dict[str, list[Object]]) -> None:
    """A Prometheus that watches two namespaces would give each alert twice."""
    alerts = [
        rule["alert"] + rule["labels"].get("burn", "")
        for things in renders.values()
        for thing in things
        if thing["kind"] == "PrometheusRule"
        for group in thing["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(alerts) > 20
    assert len(set(alerts)) == len(alerts)


def test_patches_name_what_they_change() -> None:
    assert rules.patch_targets() == []


def test_accounts_have_exactly_these_rights(renders: dict[str, list[Object]]) -> None:
    """In Kubernetes; Triton's and the model store's accounts have none."""
    found = set()
    for things in renders.values():
        roles = {t["metadata"]["name"]: t["rules"] for t in things if t["kind"] == "Role"}
        bound = {
            subject["name"]: roles[t["roleRef"]["name"]]
            for t in things
            if t["kind"] == "RoleBinding"
            for subject in t["subjects"]
        }
        assert set(bound) == set(roles)
        found |= {
            (account, verb, f"{group or 'core'}/{resource}", name)
            for account, rights in bound.items()
            for rule in rights
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", ["any"])
        }
    assert found == {
        ("canary-guard", "get", "argoproj.io/rollouts", "triton"),
        ("canary-guard", "list", "apps/replicasets", "any"),
        ("troika-pipeline", "create", "argoproj.io/workflowtaskresults", "any"),
        ("troika-pipeline", "patch", "argoproj.io/workflowtaskresults", "any"),
        ("troika-pipeline", "get", "core/configmaps", "kfp-launcher"),
        ("troika-pipeline", "get", "core/secrets", "mlpipeline-minio-artifact"),
        ("troika-pipeline", "get", "core/pods", "any"),
    }


def test_the_account_of_runs_has_its_token(renders: dict[str, list[Object]]) -> None:
    """Seen without it, on a cluster: each run ended at its first pod."""
    for value in (False, None):
        things = copy.deepcopy(renders["kubeflow/base"])
        assert list(rules.accounts(things)) == []
        the(things, "ServiceAccount", "troika-pipeline")["automountServiceAccountToken"] = value
        (problem,) = rules.accounts(things)
        assert problem.startswith("ServiceAccount/troika-pipeline: automountServiceAccountToken must be true")


@pytest.mark.parametrize("environment", ["local-kind", "staging", "production"])
def test_triton_ends_in_peace_and_is_never_fewer(renders: dict[str, list[Object]], environment: str) -> None:
    things = renders[f"serving/overlays/{environment}"]
    strategy = the(things, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    if environment == "production":
        rollout = the(things, "Rollout")["spec"]
        assert rollout["workloadRef"]["name"] == "triton"
        strategy = {key: rollout["strategy"]["canary"][key] for key in strategy}
        assert the(things, "ScaledObject")["spec"]["scaleTargetRef"]["kind"] == "Rollout"
        assert the(things, "ScaledObject")["spec"]["minReplicaCount"] >= 2
    if environment != "local-kind":  # who scales must not be put back by Git
        assert "replicas" not in the(things, "Deployment")["spec"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    triton, front = pod(things)["containers"]
    settings, of_front = ({variable["name"]: variable["value"] for variable in c["env"]} for c in (triton, front))
    waited, exit_seconds = triton["lifecycle"]["preStop"]["sleep"]["seconds"], int(settings["TROIKA_EXIT_SECONDS"])
    assert (waited, exit_seconds, pod(things)["terminationGracePeriodSeconds"]) == (35, 45, 90)
    forgotten, drained = front["lifecycle"]["preStop"]["sleep"]["seconds"], of_front["TROIKA_FRONT_DRAIN_SECONDS"]
    assert (forgotten, int(drained)) == (15, 15)
    assert forgotten + int(drained) < waited  # Triton is there until its front has ended
    assert "TROIKA_ADMIN_KEY" not in settings  # nobody may manage it


@pytest.mark.parametrize("environment", ["local-kind", "staging", "production"])
def test_triton_can_be_reached_by_the_front_only(renders: dict[str, list[Object]], environment: str) -> None:
    things = renders[f"serving/overlays/{environment}"]
    triton, front = pod(things)["containers"]
    assert (triton["name"], front["name"]) == ("triton", "front")
    settings, of_front = ({variable["name"]: variable["value"] for variable in c["env"]} for c in (triton, front))
    assert settings["TROIKA_ADDRESS"] == "127.0.0.1"
    assert not triton["ports"]
    inner = {name: settings[name] for name in ("TROIKA_HTTP_PORT", "TROIKA_GRPC_PORT", "TROIKA_METRICS_PORT")}
    assert {name: of_front[name] for name in inner} == inner
    assert {port["name"]: port["containerPort"] for port in front["ports"]} == {
        "http": 8000, "grpc": 8001, "metrics": 8002,
    }  # fmt: skip
    assert not {8000, 8001, 8002} & {int(port) for port in inner.values()}
    # A port's name holds in its own container only, and these probes ask the front's.
    probes = [triton[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes == [8000] * 3


@pytest.mark.parametrize("environment", ["local-kind", "staging", "production"])
def test_only_who_fetches_holds_the_stores_key_and_the_trusted_one(
    renders: dict[str, list[Object]], environment: str
) -> None:
    things = renders[f"serving/overlays/{environment}"]
    for template in rules.templates(things):
        secrets = {
            volume["name"]
            for volume in template.spec["volumes"]
            if volume.get("secret", {}).get("secretName") == "model-store-read"
        }
        for name, container in rules.containers(template):
            holds = {mount["name"] for mount in container.get("volumeMounts", [])} & secrets
            # Both only read: the probe what was promised of the model. Triton holds no key.
            assert bool(holds) == (name in {"model-fetch", "probe"}), (template.where, name)
    (fetch,) = pod(things)["initContainers"]
    signed = {"name": "TROIKA_VERIFY_KEY", "value": "/verify/signing.pub"} in fetch["env"]
    assert signed == (environment != "local-kind")
    triton = pod(things)["containers"][0]
    (models,) = [mount for mount in triton["volumeMounts"] if mount["name"] == "models"]
    assert models["readOnly"]


def test_what_must_be_set_before_it_can_run_is_named(renders: dict[str, list[Object]]) -> None:
    unset = rules.not_set_yet(renders["serving/overlays/production"])
    assert any("registry.example/troika-serve@sha256:0000" in thing for thing in unset)
    assert any("signing.pub is empty" in thing for thing in unset)
    assert any("Deployment/triton: sha256:0000" in thing for thing in unset)


def test_the_guide_makes_every_secret_that_is_asked_for(renders: dict[str, list[Object]]) -> None:
    """Seen on a cluster: the probe's was in no guide, and held a token where its remote is ssh's."""
    guide = (REPOSITORY / "docs" / "guides" / "cluster.md").read_text()
    asked = {
        (entry["remoteRef"]["key"], entry["remoteRef"]["property"])
        for things in renders.values()
        for thing in things
        if thing["kind"] == "ExternalSecret"
        for entry in thing["spec"]["data"]
    }
    assert {key for key, _ in asked} == {
        "troika/model-store-read",
        "troika/release-repository-read",
        "troika/release-git",
    }
    for key, value in asked:
        assert f"`{key}`" in guide
        assert f"`{value}`" in guide


def test_the_guide_and_the_check_agree_on_what_is_outside_git() -> None:
    guide = (REPOSITORY / "docs" / "guides" / "cluster.md").read_text()
    for kind, name in rules.OUTSIDE:
        assert name in guide, f"{kind} {name}"
