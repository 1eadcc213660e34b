"""Small pods for tests: of one program that waits, listens or asks, and as restricted as the namespaces ask."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubectl import Object


def small_pod(
    namespace: str,
    name: str,
    image: str,
    script: str = "exec sleep 3600",
    *,
    labels: Mapping[str, str] | None = None,
    ports: Sequence[tuple[str | None, int, str]] = (),
    **spec: Any,
) -> Object:
    """Return a pod that runs a shell script as user 10001.

    Args:
        namespace: of the pod.
        name: of the pod.
        image: with a shell.
        script: what it does.
        labels: of the pod.
        ports: name, number and protocol of those that it declares.
        spec: more of the pod's spec; `volumeMounts` goes to the container.
    """
    mounts = spec.pop("volumeMounts", [])
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
        "ports": [
            {"containerPort": number, "protocol": protocol, **({"name": called} if called else {})}
            for called, number, protocol in ports
        ],
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            **spec,
        },
    }


def with_image(things: list[Object], image: str) -> list[Object]:
    """Return objects whose pods run another image; the objects themselves stay as they are."""

    def changed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: changed(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return image if key == "image" else value

    return [changed(thing) for thing in things]
