"""What kubectl makes of manifests/: the folders that are applied, and the objects in them. Judges nothing."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
MANIFESTS = Path(__file__).parents[2] / "manifests"
# Of the environment that the Makefile makes, so that all render alike.
KUBECTL = Path(sys.executable).parent / "kubectl"


class RenderError(Exception):
    """kubectl refuses a folder; its words."""


@dataclass(frozen=True)
class Template:
    """Pods that an object asks for."""

    where: str
    """Such as `Deployment/triton`."""
    namespace: str
    metadata: dict[str, Any]
    spec: dict[str, Any]


def roots(manifests: Path = MANIFESTS) -> list[Path]:
    """Folders that are applied as they are: every Kustomization that is not a resource of another."""
    all_of_them = {
        file.parent.resolve(): yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in manifests.rglob("kustomization.yaml")
    }
    used = {
        (folder / resource).resolve()
        for folder, content in all_of_them.items()
        for resource in content.get("resources", [])
    }
    return sorted(
        folder
        for folder, content in all_of_them.items()
        if content["kind"] == "Kustomization" and folder not in used
    )


def render(folder: Path) -> str:
    """What `kubectl apply -k` would apply, as YAML.

    Raises:
        RenderError: kustomize cannot build it.
    """
    done = subprocess.run([KUBECTL, "kustomize", folder], check=False, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def objects(text: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(text) if each]


def render_objects(folder: Path) -> list[Object]:
    return objects(render(folder))


def name_of(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def the(things: list[Object], kind: str, name: str = "triton") -> Any:
    """The one object of this kind and name."""
    (found,) = [t for t in things if t["kind"] == kind and t["metadata"]["name"] == name]
    return found


def pod(things: list[Object]) -> Any:
    """Triton's pod."""
    return the(things, "Deployment")["spec"]["template"]["spec"]


def jobs_of_analysis(things: list[Object]) -> Iterator[Object]:
    """The Jobs inside AnalysisTemplates as objects of their own, since no scanner looks for them there."""
    for thing in things:
        if thing["kind"] not in {"AnalysisTemplate", "ClusterAnalysisTemplate"}:
            continue
        for metric in thing["spec"]["metrics"]:
            if job := metric["provider"].get("job"):
                metadata = {
                    **job.get("metadata", {}),
                    "name": f"{thing['metadata']['name']}-{metric['name']}",
                    "namespace": thing["metadata"].get("namespace", "default"),
                }
                # Only here, for the scanner; a Job's own annotations would reach the cluster.
                metadata["annotations"] = thing["metadata"].get("annotations", {})
                yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job["spec"]}


def templates(things: list[Object]) -> list[Template]:
    """All pods that objects ask for, those of Jobs inside AnalysisTemplates too."""
    found = []
    for thing in [*things, *jobs_of_analysis(things)]:
        spec = thing.get("spec", {})
        if thing["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = thing if thing["kind"] == "Pod" else spec.get("template")
        if thing["kind"] in _PODS and template is not None:
            found.append(
                Template(
                    name_of(thing),
                    thing["metadata"].get("namespace", "default"),
                    template.get("metadata", {}),
                    template["spec"],
                )
            )
    return found


_PODS = {"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "Rollout", "StatefulSet"}


def containers(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each container, init containers first."""
    for kind in ("initContainers", "containers"):
        for container in template.spec.get(kind, []):
            yield container["name"], container
