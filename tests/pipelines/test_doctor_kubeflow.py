"""What `troika doctor` says of a Kubeflow; its API server is a fake, Kubernetes' answers are made up."""

from pathlib import Path

import pytest
from pipelines_fake import FakeKubeflow

from pipelines.workloads import Workloads
from troika.doctor import Surroundings, examine
from troika.doctor_kubeflow import Cluster, Finding


def look(where: Cluster | None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(Surroundings(None, None, "main", kubeflow=where))}


@pytest.mark.parametrize(
    ("tag", "outcome"),
    [
        ("2.17.0", "pass"),
        ("v2.16.1", "pass"),
        ("2.15.0", "fail"),
        ("2.5.0", "fail"),
        ("unknown", "warn"),
        ("", "warn"),
    ],
)
def test_a_backend_that_refuses_our_packages_fails(fake: FakeKubeflow, tag: str, outcome: str) -> None:
    fake.health["tag_name"] = tag
    finding = look(Cluster(fake.url))["Kubeflow"]
    assert finding.outcome == outcome
    assert ("2.16 or newer" in finding.mend) == (outcome != "pass")


def test_a_token_that_opens_nothing_fails(fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.token = "right"  # noqa: S105
    findings = look(Cluster(fake.url))
    assert (findings["Kubeflow"].outcome, findings["Kubeflow's access"].outcome) == ("warn", "fail")
    assert "give --token-file or TROIKA_KUBEFLOW_TOKEN" in findings["Kubeflow's access"].said


def test_what_cannot_be_seen_is_said_with_the_command_that_shows_it(fake: FakeKubeflow) -> None:
    findings = look(Cluster(fake.url, claim="troika-training"))
    for name, command in (
        ("lost pods", "get configmap workflow-controller"),
        ("training state", "get pvc troika"),
    ):
        assert (findings[name].outcome, command in findings[name].mend) == ("warn", True), findings[name]


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        (
            {"workflowDefaults": "spec: {templateDefaults: {retryStrategy: {retryPolicy: Always}}}"},
            "pass",
        ),
        (
            {"config": "workflowDefaults: {spec: {templateDefaults: {retryStrategy: {retryPolicy: Always}}}}"},
            "pass",
        ),
        ({"workflowDefaults": "spec:\n  templateDefaults:\n    retryStrategy: {limit: 2}"}, "warn"),
        ({"workflowDefaults": "spec: {podGC: {}}"}, "warn"),
        ({"workflowDefaults": "{"}, "warn"),
        ({}, "warn"),
    ],
)
def test_a_platform_that_does_not_start_lost_pods_again_is_warned_of(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], outcome: str
) -> None:
    monkeypatch.setattr(Workloads, "controller_settings", lambda _: settings)
    finding = look(Cluster(fake.url))["lost pods"]
    assert (finding.outcome, "restart-lost-pods" in finding.mend) == (outcome, outcome == "warn")


@pytest.mark.parametrize(
    ("claim", "outcome"),
    [
        (("Bound", ["ReadWriteOnce"]), "pass"),
        (("Pending", ["ReadWriteOnce"]), "warn"),
        (("Lost", []), "fail"),
        (("missing", []), "fail"),
    ],
)
def test_the_claim_of_unfinished_training_is_looked_at(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, claim: tuple[str, list[str]], outcome: str
) -> None:
    monkeypatch.setattr(Workloads, "claim", lambda *_: claim)
    finding = look(Cluster(fake.url, claim="state"))["training state"]
    assert (finding.outcome, bool(finding.mend)) == (outcome, outcome != "pass")


def test_a_training_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TROIKA_TRAINING_STATE", str(tmp_path))
    assert look(None)["training folder"].outcome == "pass"
    monkeypatch.setenv("TROIKA_TRAINING_STATE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    finding = look(None)["training folder"]
    assert (finding.outcome, "training-state" in finding.mend) == ("fail", True)
