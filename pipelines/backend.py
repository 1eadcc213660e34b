"""List the features that a package needs of Kubeflow Pipelines, and the first version that has each.

The versions are those of the backend (its releases' notes and sources), not of the SDK. A feature that a compiled
package uses and that is not in this table is an error, so that a new one cannot be used without its minimum.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Version = tuple[int, int]
"""Major and minor number; patches add no features."""


class Feature(NamedTuple):
    """A feature of the backend."""

    since: Version
    """First version that has it."""
    without: str
    """What happens on an older backend; ends the sentence "an older one ..."."""


FEATURES: dict[str, Feature] = {
    # Of a task's pod; the names are those of the compiled platformSpec.
    "nodeSelector": Feature((2, 0), "starts the pod on any node"),
    "pvcMount": Feature((2, 0), "mounts no volume"),
    "secretAsEnv": Feature((2, 0), "hands on no secret"),
    "secretAsVolume": Feature((2, 2), "refuses the field `optional` of a mounted secret"),
    "imagePullSecret": Feature((2, 1), "cannot pull from a private registry"),
    "imagePullPolicy": Feature((2, 1), "pulls as the cluster has it"),
    "tolerations": Feature((2, 1), "starts no pod on a tainted node"),
    "activeDeadlineSeconds": Feature((2, 1), "never ends a step that hangs"),
    "emptyDirMounts": Feature((2, 3), "leaves /dev/shm at 64 MB"),
    "podMetadata": Feature((2, 1), "leaves labels and annotations out"),
    "nodeAffinity": Feature((2, 3), "starts the pod on any node"),
    "podAffinity": Feature((2, 3), "starts pods on any node"),
    "securityContext": Feature((2, 16), "refuses the package: `unknown field securityContext`"),
    # Of the graph.
    "retryPolicy": Feature((2, 14), "does not repeat a step by the numbers of its own"),
    "iteratorPolicy": Feature((2, 5), "starts all trials of a sweep at once"),
    "isArtifactList": Feature((2, 14), "cannot collect the trials of a sweep"),
    # Of what the client asks for.
    "kubernetes manifests": Feature((2, 14), "has no Pipeline and PipelineVersion kinds"),
    "recurring runs of the newest version": Feature((2, 5), "wants a version"),
    "max_concurrency with the newest version": Feature((2, 17), "does not count the runs that it limits"),
}

_GRAPH = ("retryPolicy", "iteratorPolicy", "isArtifactList")


class Requirement(NamedTuple):
    """The oldest backend that will do, and why."""

    version: Version
    feature: str
    """The feature that needs it; the first by name of several."""
    without: str

    def __str__(self) -> str:
        """Return the version as people write it."""
        return ".".join(map(str, self.version))


def required_version(package: Path | Iterable[str]) -> Requirement:
    """Return the oldest backend that runs a package, or that has all of some features.

    Args:
        package: a compiled package, or names of `FEATURES`.
    """
    names = features_of(package) if isinstance(package, Path) else set(package)
    feature = max(sorted(names), key=lambda name: FEATURES[name].since)
    return Requirement(FEATURES[feature].since, feature, FEATURES[feature].without)


def lacking(found: Version, package: Path | Iterable[str]) -> dict[str, Feature]:
    """Return those features of a package, or of some names, that a backend of this version does not have."""
    names = features_of(package) if isinstance(package, Path) else package
    return {name: FEATURES[name] for name in sorted(names) if FEATURES[name].since > found}


def parse_version(text: str | None) -> Version | None:
    """Return the version that a backend says it has; None for `unknown`, `dev` and the like."""
    found = re.match(r"v?(\d+)\.(\d+)(?![\w])", text or "")
    return (int(found[1]), int(found[2])) if found else None


def features_of(package: Path) -> set[str]:
    """Return the names of the features that a compiled package uses.

    Raises:
        KeyError: it has a setting of pods that `FEATURES` does not know.
    """
    graph, *platforms = yaml.safe_load_all(package.read_text(encoding="utf-8"))
    used = {key for key in _keys(graph) if key in _GRAPH}
    for platform in platforms:
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        used |= {key for settings in executors.values() for key in settings}
    if unknown := used - set(FEATURES):
        raise KeyError(f"{', '.join(sorted(unknown))}: not in FEATURES; say since which version of the backend")
    return used


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield key
            yield from _keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys(value)
