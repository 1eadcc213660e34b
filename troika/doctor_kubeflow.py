"""Look at what a run on Kubeflow needs of it and of its cluster: a part of `troika doctor`.

What only Kubernetes knows is read by the kubeconfig; where that cannot be, the command that shows it is named.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from troika.errors import install_hint

Outcome = Literal["pass", "warn", "fail"]
STATE = "TROIKA_TRAINING_STATE"
_GUIDE = "docs/guides/cluster.md"
_NOT_ASKED_FOR = {
    "kubernetes manifests",
    "max_concurrency with the newest version",
    "recurring runs of the newest version",
}
"""Features that `troika submit` and `troika recurring` do without."""


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    outcome: Outcome
    name: str
    said: str
    mend: str = ""


@dataclass(frozen=True)
class Cluster:
    """Which Kubeflow to look at, and what a run needs of it."""

    host: str
    """URL of Kubeflow Pipelines."""
    namespace: str = "kubeflow"
    """Of the runs."""
    claim: str | None = None
    """Name of the volume claim for unfinished training."""
    token_file: Path | None = None
    ca: Path | None = None
    controller_namespace: str = "kubeflow"
    """Of Argo's workflow controller."""


def checks(where: Cluster) -> list[tuple[str, Callable[[], Finding]]]:
    """Return the checks by name."""
    claim = where.claim
    found: list[tuple[str, Callable[[], Finding]]] = [
        ("Kubeflow", lambda: _version(where)),
        ("Kubeflow's access", lambda: _access(where)),
        ("lost pods", lambda: _lost_pods(where)),
    ]
    if claim is not None:
        found.append(("training state", lambda: _claim(where, claim)))
    return found


def training_folder() -> Finding | None:
    """Look at the folder of unfinished training that this pod has; None: it has none."""
    name, folder = "training folder", os.environ.get(STATE)
    if not folder:
        return None
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "fail",
            name,
            f"{folder} ({STATE}) cannot be written by user {os.getuid()}: {error.strerror}",
            f"a fresh volume belongs to root: run the Job of manifests/kubeflow/training-state once ({_GUIDE})",
        )
    return Finding("pass", name, f"{folder} can be written")


def _version(where: Cluster) -> Finding:
    from importlib.metadata import version  # noqa: PLC0415 - so with all below: each check, its imports

    name = "Kubeflow"
    try:
        from pipelines.backend import FEATURES  # noqa: PLC0415
        from pipelines.connection import Connection, judge_version  # noqa: PLC0415
    except ImportError:
        return Finding("fail", name, "kfp is not installed", install_hint("pipeline"))
    connection = Connection(where.host, where.namespace, where.token_file, where.ca)
    said = f"backend {connection.tag or 'of unknown version'}, SDK {version('kfp')}"
    problem = judge_version(connection.tag, set(FEATURES) - _NOT_ASKED_FOR)
    if problem is None:
        return Finding("pass", name, said)
    if connection.version is None:
        return Finding("warn", name, said, f"{problem}; look at the tag of its images: {_images(where)}")
    return Finding("fail", name, said, f"{problem}: update Kubeflow Pipelines")


def _access(where: Cluster) -> Finding:
    from pipelines.connection import Connection  # noqa: PLC0415

    connection = Connection(where.host, where.namespace, where.token_file, where.ca)
    connection.call(
        connection.experiments.experiment_service_list_experiments, namespace=where.namespace, page_size=1
    )
    return Finding("pass", "Kubeflow's access", f"may list what is in namespace {where.namespace}")


def _lost_pods(where: Cluster) -> Finding:
    from pipelines.workloads import CONTROLLER, Workloads  # noqa: PLC0415

    name = "lost pods"
    settings = Workloads(where.controller_namespace).controller_settings()
    if settings is None:
        return Finding(
            "warn",
            name,
            "cannot be seen from here whether the platform starts deleted, evicted and preempted pods again",
            f"kubectl -n {where.controller_namespace} get configmap {CONTROLLER} -o yaml | grep -A3 templateDef",
        )
    if _retries_always(settings):
        return Finding("pass", name, "the platform starts deleted, evicted and preempted pods again")
    return Finding(
        "warn",
        name,
        "the platform does not start a deleted, evicted or preempted pod again: the run ends",
        f"apply manifests/kubeflow/components/restart-lost-pods ({_GUIDE}); until then `troika submit`, `troika "
        "follow` and `troika recurring retry` try such a run once more",
    )


def _claim(where: Cluster, claim: str) -> Finding:
    from pipelines.workloads import Workloads  # noqa: PLC0415

    name = "training state"
    kubectl = f"kubectl -n {where.namespace}"
    workloads = Workloads(where.namespace)
    found = workloads.claim(claim)
    if found is None:
        return Finding(
            "warn", name, f"claim {claim} cannot be seen from here", f"{kubectl} get pvc {claim}; {_job(where)}"
        )
    phase, modes = found
    said = f"claim {claim} is {phase.lower()} ({', '.join(modes) or 'no access mode'})"
    if phase == "missing":
        return Finding(
            "fail",
            name,
            f"there is no claim {claim} in namespace {where.namespace}: the pod of `train` would wait for ever",
            f"kubectl apply -k manifests/kubeflow/training-state ({_GUIDE}), or set training_state: null in the "
            "cluster file",
        )
    if phase == "Lost":
        return Finding("fail", name, said, f"its volume is gone: delete the claim and make it anew ({_GUIDE})")
    if phase == "Pending":
        return Finding(
            "warn", name, f"{said}: it is bound by its first pod, or never", f"{kubectl} describe pvc {claim}"
        )
    job = workloads.job_succeeded("training-state")
    if job is False:
        return Finding("fail", name, f"{said}, and its Job has failed", f"{kubectl} logs job/training-state")
    return Finding("pass", name, f"{said}; whether steps may write there: {_job(where)}")


def _job(where: Cluster) -> str:
    return f"{STATE} in the train image's `troika doctor`, or the Job training-state of {where.namespace}"


def _images(where: Cluster) -> str:
    return f"kubectl -n {where.controller_namespace} get deployment ml-pipeline -o wide"


def _retries_always(settings: dict[str, str]) -> bool:
    """Whether Argo's defaults repeat templates after errors, too."""
    for key in ("workflowDefaults", "config"):
        try:
            found = yaml.safe_load(settings.get(key, "")) or {}
        except yaml.YAMLError:
            continue
        if key == "config":
            found = found.get("workflowDefaults") or {} if isinstance(found, dict) else {}
        for part in ("spec", "templateDefaults", "retryStrategy"):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict) and found.get("retryPolicy") in {"Always", "OnError"}:
            return True
    return False
