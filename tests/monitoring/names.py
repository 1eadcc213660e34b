"""Which metrics are named, and by whom: rules, dashboards, autoscaler, canary analysis."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from promtool import read_rules, rules_of
from quick import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"
DASHBOARDS = MANIFESTS / "monitoring" / "base" / "dashboards"

# What needs a program that cannot run here, and where its name is from.
OUTSIDE = {
    "DCGM_FI_DEV_FB_FREE": "dcgm-exporter: etc/default-counters.csv",
    "DCGM_FI_DEV_FB_USED": "dcgm-exporter: etc/default-counters.csv",
    "DCGM_FI_DEV_GPU_TEMP": "dcgm-exporter: etc/default-counters.csv",
    "DCGM_FI_DEV_GPU_UTIL": "dcgm-exporter: etc/default-counters.csv",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "dcgm-exporter: etc/default-counters.csv",
    "DCGM_FI_DEV_XID_ERRORS": "dcgm-exporter: etc/default-counters.csv",
    "argo_workflows_gauge": "Argo Workflows 3.6 and newer: docs/metrics.md",
    "argo_workflows_total_count": "Argo Workflows 3.6 and newer: docs/metrics.md",
    "argocd_app_info": "Argo CD: docs/operator-manual/metrics.md",
    "certmanager_certificate_expiration_timestamp_seconds": "cert-manager: pkg/metrics",
    "kube_deployment_spec_replicas": "kube-state-metrics: docs/metrics/deployment-metrics.md",
    "kube_deployment_status_replicas_available": "kube-state-metrics: docs/metrics/deployment-metrics.md",
    "kube_pod_container_status_restarts_total": "kube-state-metrics: docs/metrics/pod-metrics.md",
    "kube_pod_init_container_status_waiting_reason": "kube-state-metrics: docs/metrics/pod-metrics.md",
    "kubelet_volume_stats_available_bytes": "kubelet: pkg/kubelet/metrics/collectors/volume_stats.go",
    "kubelet_volume_stats_capacity_bytes": "kubelet: pkg/kubelet/metrics/collectors/volume_stats.go",
    "resource_manager_workflow_runs_failed": "Kubeflow Pipelines: backend/src/apiserver/resource",
    "resource_manager_workflow_runs_success": "Kubeflow Pipelines: backend/src/apiserver/resource",
    "rollout_info": "Argo Rollouts: controller/metrics/prommetrics.go",
    "rollout_info_replicas_unavailable": "Argo Rollouts: controller/metrics/prommetrics.go",
}

_WORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset",
    "sum", "min", "max", "avg", "count", "topk", "histogram_quantile", "rate", "increase", "absent", "time",
    "clamp_min", "le", "vector",
}  # fmt: skip


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression reads; strings, label lists and durations are left out."""
    plain = re.sub(r"\{\{.*?\}\}|\$\w+", "x", expression)
    plain = re.sub(r'"[^"]*"', "", plain)
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", plain)
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", plain)
    plain = re.sub(r"\b\d[\w.]*", " ", plain)
    return set(re.findall(r"[A-Za-z_:][\w:]*", plain)) - _WORDS


def expressions() -> Iterator[tuple[str, str]]:
    """(who, expression) of all."""
    for file, groups in read_rules().items():
        for rule in rules_of(groups):
            yield f"{file} {rule.get('alert') or rule['record']}", rule["expr"]
    for path in sorted(DASHBOARDS.glob("*.json")):
        for expression in dashboard_expressions(json.loads(path.read_text())):
            yield path.name, expression
    for path in sorted((MANIFESTS / "serving").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for query in _values(document, "query"):
                yield str(path.relative_to(MANIFESTS)), query


def dashboard_expressions(dashboard: dict[str, Any]) -> list[str]:
    """Of panels and variables."""
    found = [each for each in _values(dashboard, "expr") if each]
    variables = dashboard.get("templating", {}).get("list", [])
    for variable in variables:
        query = variable.get("query")
        text = query.get("query") if isinstance(query, dict) else query
        if variable["type"] == "query" and (inner := re.match(r"label_values\((.*),\s*\w+\)", text or "")):
            found.append(inner[1])
    return found


def _values(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from _values(value, key)
    elif isinstance(node, list):
        for each in node:
            yield from _values(each, key)


def records() -> set[str]:
    return {rule["record"] for groups in read_rules().values() for rule in rules_of(groups) if "record" in rule}
