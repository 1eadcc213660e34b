"""CustomResourceDefinitions around the schemas of TROIKA_TEST_CRDS, which hold no definitions."""

import json
from pathlib import Path
from typing import Any

from kubectl import Object

# Whoever writes a status or scales does so through these.
_STATUS: Object = {"status": {}}
_SUBRESOURCES: dict[str, Object] = {
    "Rollout": {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.HPAReplicas",
            "labelSelectorPath": ".status.selector",
        },
    },
    # As their own definitions have it: no status apart, so that a controller writes the whole object.
    "Application": {},
    "AppProject": {},
    "AnalysisRun": {},
    "AnalysisTemplate": {},
    "ClusterAnalysisTemplate": {},
    "Pipeline": {},
}
_GROUPS = {
    "argoproj.io",
    "external-secrets.io",
    "keda.sh",
    "monitoring.coreos.com",
    "pipelines.kubeflow.org",
}
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definitions(folder: Path) -> list[Object]:
    """Return a definition for each kind that the manifests and their operators use."""
    rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        group = row["apiVersion"].split("/")[0]
        if group in _GROUPS:
            kinds.setdefault((group, row["kind"]), []).append(row)
    return [
        _definition(
            group,
            kind,
            found[0]["scope"],
            {
                row["apiVersion"].split("/")[1]: json.loads((folder / row["file"]).read_text(encoding="utf-8"))
                for row in found
            },
        )
        for (group, kind), found in kinds.items()
    ] + [
        # What Argo's executor reports to, and the policy's own of Rollouts; their schemas are not among those.
        _definition("argoproj.io", "WorkflowTaskResult", "Namespaced", {"v1alpha1": _ANYTHING}),
        _definition("argoproj.io", "Experiment", "Namespaced", {"v1alpha1": _ANYTHING}),
    ]


def _definition(group: str, kind: str, scope: str, schemas: dict[str, Any]) -> Object:
    singular = kind.lower()
    plural = f"{singular}es" if singular.endswith("s") else f"{singular}s"
    versions = [
        {
            "name": version,
            "served": True,
            "storage": number == len(schemas) - 1,
            "schema": {"openAPIV3Schema": schema},
            "subresources": _SUBRESOURCES.get(kind, _STATUS),
        }
        for number, (version, schema) in enumerate(sorted(schemas.items()))
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # The group belongs to Kubernetes' own community, whose API server asks for this.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": singular},
            "versions": versions,
        },
    }
