"""What runs need of training's namespace and of the platform: to write their state, and to outlive a node."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import KUBECTL, MANIFESTS, Object, render_objects, the

from pipelines.cluster import USER, read_cluster

KUBEFLOW = MANIFESTS / "kubeflow"
CLUSTER = MANIFESTS.parent / "pipelines" / "cluster.yaml"


@pytest.fixture
def job(renders: dict[str, list[Object]]) -> Any:
    return the(renders["kubeflow/base"], "Job", "training-state")["spec"]["template"]["spec"]


def test_the_claim_of_training_is_handed_to_the_steps_user(job: Any) -> None:
    security = job["securityContext"]
    assert {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"
    (volume,), (container,) = job["volumes"], job["containers"]
    assert volume["persistentVolumeClaim"] == {"claimName": read_cluster(CLUSTER).training_state}
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/training"}]


@pytest.fixture
def volume() -> Iterator[Path]:
    """As a fresh block volume is mounted: root's, mode 0755; in a folder that other users may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root may make folders that belong to root")
    folder = Path(tempfile.mkdtemp(prefix="troika-volume-"))
    folder.chmod(0o755)
    (folder / "volume").mkdir(mode=0o755)
    yield folder / "volume"
    shutil.rmtree(folder)


def test_the_job_ends_well_only_where_the_steps_user_may_write(job: Any, volume: Path) -> None:
    (container,) = job["containers"]
    script = container["args"][0].replace("/training", str(volume))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*container["command"], script],
            check=False, capture_output=True, text=True, user=USER, group=USER, extra_groups=[],
        )  # fmt: skip

    refused = run()
    assert refused.returncode == 1
    assert "which is 0:0, mode 755: this volume's driver takes no fsGroup" in refused.stdout
    # What the kubelet does for an fsGroup.
    os.chown(volume, 0, USER)
    volume.chmod(0o2775)
    assert run().returncode == 0


def test_the_claim_and_its_job_can_live_in_any_namespace() -> None:
    things = render_objects(KUBEFLOW / "training-state")
    assert {thing["kind"] for thing in things} == {"PersistentVolumeClaim", "ServiceAccount", "Job"}
    assert not any("namespace" in thing["metadata"] for thing in things)


def test_lost_pods_are_started_again_by_the_platforms_setting(tmp_path: Path) -> None:
    """By the component, and by `kubectl patch` as the guide has it; what else the platform has set stays."""
    there = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap", "namespace": "kubeflow"},
        "data": {"executor": "imagePullPolicy: IfNotPresent\n"},
    }
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(there))
    shutil.copytree(KUBEFLOW / "components", tmp_path / "components")
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [there.yaml]\ncomponents: [components/restart-lost-pods]\n"
    )
    (rendered,) = render_objects(tmp_path)
    patch = KUBEFLOW / "components" / "restart-lost-pods" / "configmap.yaml"
    done = subprocess.run(
        [KUBECTL, "patch", "--local", "--filename", tmp_path / "there.yaml", "--patch-file", patch, "-o=yaml"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    for found in (rendered, yaml.safe_load(done.stdout)):
        assert found["metadata"] == there["metadata"]
        assert found["data"].keys() == {"executor", "workflowDefaults"}
        assert yaml.safe_load(found["data"]["workflowDefaults"]) == {
            "spec": {"templateDefaults": {"retryStrategy": {"limit": "0", "retryPolicy": "Always"}}}
        }
    guide = (MANIFESTS.parent / "docs" / "guides" / "cluster.md").read_text()
    assert f"--patch-file {patch.relative_to(MANIFESTS.parent)}" in guide
