"""Argo CD's project and applications fit what they apply; the pipeline's objects come out of the code."""

import shutil
from pathlib import Path

import check
import pytest
import rules
import yaml
from quick import quick_sections
from rendering import MANIFESTS, Object, render_objects, roots

from pipelines.cluster import read_cluster
from pipelines.compile import compile_manifests
from pipelines.graph import PIPELINE_NAME

GITOPS = MANIFESTS / "gitops"


@pytest.fixture(scope="module")
def project() -> Object:
    (found,) = [t for t in render_objects(GITOPS) if t["kind"] == "AppProject"]
    return found["spec"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def applications() -> dict[str, Object]:
    things = [*render_objects(GITOPS), *render_objects(GITOPS / "apps")]
    return {t["metadata"]["name"]: t for t in things if t["kind"] == "Application"}


def test_every_folder_but_those_applied_by_hand_has_an_application(applications: dict[str, Object]) -> None:
    paths = {application["spec"]["source"]["path"] for application in applications.values()}
    by_hand = {"manifests/gitops", "manifests/serving/overlays/local-kind"}
    assert paths | by_hand == {folder.relative_to(MANIFESTS.parent).as_posix() for folder in roots()}


def test_the_project_allows_what_is_applied_and_no_other_kind(
    project: Object, applications: dict[str, Object]
) -> None:
    allowed = {(row["group"], row["kind"]) for row in project["namespaceResourceWhitelist"]}
    in_cluster = {(row["group"], row["kind"]) for row in project["clusterResourceWhitelist"]}
    places = {(row["server"], row["namespace"]) for row in project["destinations"]}
    used = {("pipelines.kubeflow.org", "PipelineVersion")}  # once `troika pipeline` has written one
    for application in applications.values():
        spec = application["spec"]
        assert (spec["destination"]["server"], spec["destination"]["namespace"]) in places
        assert spec["source"]["repoURL"] in project["sourceRepos"]
        for thing in render_objects(MANIFESTS.parent / spec["source"]["path"]):
            kind = (thing["apiVersion"].rpartition("/")[0], thing["kind"])
            if kind in in_cluster:
                assert thing["metadata"]["name"] == spec["destination"]["namespace"]
                continue
            assert thing["metadata"]["namespace"] == spec["destination"]["namespace"], thing["metadata"]
            used.add(kind)
    # Monitoring's kinds come with its own folder.
    assert used | {("monitoring.coreos.com", "PodMonitor"), ("monitoring.coreos.com", "PrometheusRule")} == allowed


def test_applications_go_one_after_the_other(applications: dict[str, Object]) -> None:
    waves = {
        name.removeprefix("troika-"): int(application["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for name, application in applications.items()
        if name != "troika"
    }
    assert sorted(waves, key=lambda name: waves[name]) == [
        "training",
        "pipeline",
        "rules",
        "staging",
        "production",
    ]
    assert len(set(waves.values())) == len(waves)


def _wave(thing: Object) -> int:
    return int(thing["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0))


def test_what_pods_need_comes_before_them(applications: dict[str, Object]) -> None:
    for name in ("troika-staging", "troika-production"):
        things = render_objects(MANIFESTS.parent / applications[name]["spec"]["source"]["path"])
        wave = {
            kind: {_wave(t) for t in things if t["kind"] == kind}
            for kind in (
                "Namespace",
                "NetworkPolicy",
                "ServiceAccount",
                "ExternalSecret",
                "Deployment",
                "ScaledObject",
            )
        }
        order = [max(waves) for waves in wave.values()]
        assert order == sorted(order), wave
        # A wave after it would wait for the Rollout's health, which it lacks for as long as a canary is judged.
        assert max(_wave(t) for t in things) <= max(wave["Deployment"])
        assert max(wave["NetworkPolicy"]) < min(wave["Deployment"])


def test_the_pipelines_objects_are_what_kubeflow_knows(tmp_path: Path, crds: Path) -> None:
    """As docs/guides/cluster.md says: compile, copy over pipeline.yaml, apply."""
    shutil.copytree(MANIFESTS / "kubeflow", tmp_path / "kubeflow")
    folder = tmp_path / "kubeflow" / "pipeline"
    image = "registry.example/troika-train@sha256:" + "a" * 64
    cluster = read_cluster(MANIFESTS.parent / "pipelines" / "cluster.yaml")
    version = f"{PIPELINE_NAME}-0123456789ab"
    compile_manifests(
        folder / "pipeline.yaml", version, "troika-training", image, quick_sections(promoted=False), cluster
    )
    things = render_objects(folder)
    kinds = {thing["kind"]: thing for thing in things}
    assert list(kinds) == ["Pipeline", "PipelineVersion"]
    assert check.problems(things, crds) == []
    made = kinds["PipelineVersion"]
    assert made["metadata"]["name"] == version
    assert made["metadata"]["annotations"] == {"argocd.argoproj.io/sync-options": "Prune=false"}
    assert made["spec"]["pipelineName"] == kinds["Pipeline"]["metadata"]["name"] == PIPELINE_NAME
    assert rules.not_set_yet(things) == []
    made["spec"]["pipelineNam"] = "wrong"
    assert any("pipelineNam" in problem for problem in check.problems(things, crds))


def test_secrets_of_the_pipeline_are_those_that_the_guides_make() -> None:
    guide = (MANIFESTS.parent / "docs" / "guides" / "kubeflow.md").read_text()
    content = yaml.safe_load((MANIFESTS.parent / "pipelines" / "cluster.yaml").read_text())
    claims = [
        thing["metadata"]["name"]
        for thing in render_objects(MANIFESTS / "kubeflow" / "base")
        if thing["kind"] == "PersistentVolumeClaim"
    ]
    assert claims == [content["training_state"]]
    for secret in content["secrets"].values():
        assert f"create secret generic {secret['name']}" in guide
