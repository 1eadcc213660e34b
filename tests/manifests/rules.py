"""What no schema and no scanner says: restricted pods, digests, references that lead somewhere, explained skips.

Each rule gives what is wrong, by object. Networks are judged in network.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import git_access
import yaml
from rendering import MANIFESTS, Object, Template, containers, name_of, templates

_IMAGE = re.compile(r"[a-z0-9.:/_-]+/[a-z0-9._/-]+@sha256:[0-9a-f]{64}")
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
UNSET = "0" * 64
# Made by people or by External Secrets, as docs/guides/cluster.md says; never in Git.
OUTSIDE = {("Secret", "model-store-read"), ("Secret", "model-store-admin")}
# Accounts whose pods are made by others, who count on the account's token; every other account must mount none.
TOKENS = {
    "troika-pipeline": "Kubeflow's driver and launcher and Argo's executor talk to the API, and none of them "
    "mounts a token by itself",
}


def problems(things: list[Object]) -> list[str]:
    """All that is wrong."""
    found: list[str] = []
    for template in templates(things):
        found += [f"{template.where}: {problem}" for problem in restricted(template)]
        found += [f"{template.where}: {problem}" for problem in hardened(template)]
        found += [f"{template.where}: {problem}" for problem in references(template, things)]
        found += [f"{template.where}: {problem}" for problem in git_access.keys(template, things)]
    found += [
        *namespaces(things),
        *amounts(things),
        *services(things),
        *accounts(things),
        *turns(things),
        *skips(things),
        *unfinished(things),
    ]
    return found


def restricted(template: Template) -> Iterator[str]:
    """Pod Security Standard "restricted", field by field (Kubernetes' documentation, Pod Security Standards)."""
    pod = template.spec
    security = pod.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} must not be set"
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is a {', '.join(kinds)}"
    if security.get("sysctls"):
        yield "sysctls must not be set"
    for name, container in containers(template):
        yield from _restricted(name, container, security)


def _restricted(name: str, container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**of_pod, **own}
    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation must be false"
    if both.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot must be true"
    if both.get("runAsUser") == 0:
        yield f"{name}: runAsUser must not be 0"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities must drop ALL"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities may add NET_BIND_SERVICE only"
    if both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield f"{name}: seccompProfile must be RuntimeDefault"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{name}: hostPort must not be set"


def hardened(template: Template) -> Iterator[str]:
    """What this project asks for beyond "restricted"."""
    pod = template.spec
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must be false"
    if pod.get("serviceAccountName", "default") == "default":
        yield "serviceAccountName must name an account of its own"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks must be false"
    for volume in pod.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']}: emptyDir without sizeLimit"
    for name, container in containers(template):
        yield from _hardened(name, container, pod.get("securityContext", {}))


def _hardened(name: str, container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    security = {**of_pod, **container.get("securityContext", {})}
    if security.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: readOnlyRootFilesystem must be true"
    if security.get("runAsUser", 0) < 10000:
        yield f"{name}: runAsUser must be 10000 or more"
    if not _IMAGE.fullmatch(container["image"]):
        yield f"{name}: image {container['image']!r} must be registry/name@sha256:<64 hex digits>"
    if container.get("imagePullPolicy") != "IfNotPresent":
        yield f"{name}: imagePullPolicy must be IfNotPresent (a digest cannot change)"
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        if missing := {"cpu", "memory", "ephemeral-storage"} - set(resources.get(kind, {})):
            yield f"{name}: resources.{kind} lacks {', '.join(sorted(missing))}"
    for variable in container.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"{name}: {variable['name']} takes a secret into the environment; mount it"
    if "envFrom" in container:
        yield f"{name}: envFrom hides what the container is given; name each variable"


def references(template: Template, things: list[Object]) -> Iterator[str]:
    """Do accounts, ConfigMaps, Secrets, claims and volumes exist?"""
    here = {(t["kind"], t["metadata"]["name"]) for t in things if t["kind"] != "ExternalSecret"}
    here |= {("Secret", t["spec"]["target"]["name"]) for t in things if t["kind"] == "ExternalSecret"}
    wanted = {("ServiceAccount", template.spec.get("serviceAccountName", "default"))}
    volumes = template.spec.get("volumes", [])
    for volume in volumes:
        if "configMap" in volume:
            wanted.add(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            wanted.add(("Secret", volume["secret"]["secretName"]))
        if "persistentVolumeClaim" in volume:
            wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for kind, name in sorted(wanted - here - OUTSIDE):
        yield f"{kind} {name} is not there"
    names = {volume["name"] for volume in volumes}
    mounted = {
        mount["name"] for _, container in containers(template) for mount in container.get("volumeMounts", [])
    }
    if names != mounted:
        yield f"volumes and mounts differ: {', '.join(sorted(names ^ mounted))}"


def namespaces(things: list[Object]) -> Iterator[str]:
    """Every namespace that is made is restricted; every object is in one, and has a name once."""
    seen: set[tuple[str, str, str]] = set()
    for thing in things:
        metadata = thing["metadata"]
        if thing["kind"] == "Namespace":
            labels = metadata.get("labels", {})
            for mode in ("enforce", "audit", "warn"):
                if labels.get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                    yield f"{name_of(thing)}: pod-security.kubernetes.io/{mode} must be restricted"
        elif "namespace" not in metadata:
            yield f"{name_of(thing)}: no namespace"
        key = (thing["kind"], metadata.get("namespace", ""), metadata["name"])
        if key in seen:
            yield f"{name_of(thing)}: there twice"
        seen.add(key)


def services(things: list[Object]) -> Iterator[str]:
    """Services, budgets and pod monitors select pods, and name ports that those have."""
    pods = templates(things)
    of_rollouts = _services_of_rollouts(things)
    for thing in things:
        if thing["kind"] not in {"Service", "PodDisruptionBudget", "PodMonitor"}:
            continue
        spec, name = thing["spec"], thing["metadata"]["name"]
        if thing["kind"] != "Service":
            labels = spec["selector"].get("matchLabels", {})
        elif name not in of_rollouts:
            labels = spec.get("selector", {})
        elif "selector" in spec:
            # A selector is one value: who applies one takes the hash of Rollouts away, and is refused or fights.
            yield f"{name_of(thing)}: Argo Rollouts writes its selector, so none may stand here"
            continue
        else:
            labels = of_rollouts[name]
        chosen = [pod for pod in pods if labels.items() <= pod.metadata.get("labels", {}).items()]
        if not chosen or not labels:
            yield f"{name_of(thing)}: selects no pod of this folder"
            continue
        ports = {
            port.get("name") or port["containerPort"]
            for pod in chosen
            for _, container in containers(pod)
            for port in container.get("ports", [])
        }
        asked = [port["targetPort"] for port in thing["spec"].get("ports", [])]
        asked += [end["port"] for end in thing["spec"].get("podMetricsEndpoints", []) if "port" in end]
        for port in asked:
            if port not in ports:
                yield f"{name_of(thing)}: its pods have no port {port}"


def _services_of_rollouts(things: list[Object]) -> dict[str, dict[str, str]]:
    """Name of each Service whose selector Argo Rollouts writes -> labels of the Rollout's pods."""
    found = {}
    for thing in things:
        if thing["kind"] == "Rollout":
            strategy = thing["spec"]["strategy"]
            for key in ("stableService", "canaryService", "activeService", "previewService"):
                for kind in ("canary", "blueGreen"):
                    if name := strategy.get(kind, {}).get(key):
                        found[name] = thing["spec"]["selector"]["matchLabels"]
    return found


def amounts(things: list[Object]) -> Iterator[str]:
    """What the schemas take as any text: a number of pods, or a share of them."""
    for thing in things:
        spec = thing.get("spec", {})
        strategy = spec.get("strategy", {})
        for part in (spec, strategy.get("rollingUpdate", {}), strategy.get("canary", {})):
            for key in ("maxUnavailable", "minAvailable", "maxSurge"):
                if key in part and not re.fullmatch(r"\d+|\d+%", str(part[key])):
                    yield f"{name_of(thing)}: {key} must be a number or a percentage, got {part[key]!r}"


def accounts(things: list[Object]) -> Iterator[str]:
    """Tokens are mounted where they are needed only, no role has wildcards, and none can make itself stronger."""
    for thing in things:
        if thing["kind"] == "ServiceAccount":
            reason = TOKENS.get(thing["metadata"]["name"])
            # Said, not left to the default: a default is easily taken for a choice.
            if thing.get("automountServiceAccountToken") is not (reason is not None):
                must = f"true: {reason}" if reason else "false"
                yield f"{name_of(thing)}: automountServiceAccountToken must be {must}"
        if thing["kind"] in {"ClusterRole", "ClusterRoleBinding"}:
            yield f"{name_of(thing)}: nothing here needs rights in the whole cluster"
        for rule in thing.get("rules", []) if thing["kind"] == "Role" else []:
            if "*" in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]:
                yield f"{name_of(thing)}: a wildcard in {rule}"
            if {"secrets", "configmaps"} & set(rule["resources"]) and not rule.get("resourceNames"):
                yield f"{name_of(thing)}: {', '.join(rule['resources'])} must be named"


def turns(things: list[Object]) -> Iterator[str]:
    """A job that hangs holds up none of those that are due after it, and ends some time."""
    for thing in things:
        if thing["kind"] == "CronJob":
            if thing["spec"].get("concurrencyPolicy", "Allow") == "Forbid":
                yield f"{name_of(thing)}: Forbid: a pod that never starts holds up all that follow"
            if "activeDeadlineSeconds" not in thing["spec"]["jobTemplate"]["spec"]:
                yield f"{name_of(thing)}: activeDeadlineSeconds must be set, else jobs that hang pile up"


def skips(things: list[Object]) -> Iterator[str]:
    """Each check that checkov is told to skip has a reason."""
    for thing in things:
        for key, value in (thing["metadata"].get("annotations") or {}).items():
            if "checkov.io/skip" in key and not re.fullmatch(r"CKV2?_K8S_\d+=\S.{14,}", " ".join(value.split())):
                yield f"{name_of(thing)}: {key}: {value!r} must be CKV_K8S_<number>=<reason>"


def unfinished(things: list[Object]) -> Iterator[str]:
    """The word that bases hold until a component replaces it."""
    for thing in things:
        for path, value in _strings(thing):
            if re.search(r"\bunset\b", value):
                yield f"{name_of(thing)}: {path} is still {value!r}; a replacement is missing"


def not_set_yet(things: list[Object]) -> list[str]:
    """What people must set before this can run: images, the first release, keys. No fault of a template."""
    found = set()
    for thing in things:
        found |= {
            f"{name_of(thing)}: {value.strip()} is not set" for _, value in _strings(thing) if UNSET in value
        }
        if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == "model-verify-key":
            found |= {f"{name_of(thing)}: {key} is empty" for key, value in thing["data"].items() if not value}
    return sorted(found)


def patch_targets(manifests: Path = MANIFESTS) -> list[str]:
    """Every patch says by kind and name what it changes, and lies in a file of its own."""
    found = []
    for file in sorted(manifests.rglob("kustomization.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        where = file.parent.relative_to(manifests)
        if old := {"patchesStrategicMerge", "patchesJson6902", "bases", "vars", "commonLabels"} & set(content):
            found.append(f"{where}: {', '.join(sorted(old))}: kustomize has given that up")
        for patch in content.get("patches", []):
            if "path" not in patch:
                found.append(f"{where}: a patch without a file of its own")
            if not {"kind", "name", "version"} <= set(patch.get("target", {})):
                found.append(f"{where}: patch {patch.get('path')}: target must have version, kind and name")
    return found


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _strings(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _strings(each, f"{path}[{number}]")
