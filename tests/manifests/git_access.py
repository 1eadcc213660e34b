"""What a pod needs to ask Git: a key for its remote's scheme, from a secret that holds it, and a port."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from rendering import Object, Template, containers

_REMOTE = "TROIKA_RELEASE_REMOTE"
_SHORT_SSH = re.compile(r"[^/@]+@[^/:]+:(?!//)")
"""Such as git@git.example:platform/deployments.git."""
_PORTS = {"ssh": 22, "https": 443, "http": 80, "git": 9418}
_NEEDED = {
    "ssh": {
        "a key": r"-i (/\S+)",
        "the server's keys": r"UserKnownHostsFile=(/\S+)",
        "no questions": r"(BatchMode=yes)",
    },
    "https": {"credentials": r"store --file (/\S+)"},
}
"""Scheme -> what it needs -> where that stands in Git's settings; a path is a file in a secret."""


def remotes(template: Template) -> Iterator[str]:
    """Git repositories that a pod's containers are told of."""
    for _, container in containers(template):
        if remote := _variables(container).get(_REMOTE):
            yield remote


def port(remote: str) -> int | None:
    """Where the server of a remote answers; None for a folder."""
    return (
        _PORTS["ssh"] if _SHORT_SSH.match(remote) else urlsplit(remote).port or _PORTS.get(urlsplit(remote).scheme)
    )


def keys(template: Template, things: list[Object]) -> Iterator[str]:
    """What a pod lacks to be let in by its remote."""
    held = {
        (t["spec"]["target"]["name"], entry["secretKey"])
        for t in things
        if t["kind"] == "ExternalSecret"
        for entry in t["spec"]["data"]
    }
    secrets = {v["name"]: v["secret"]["secretName"] for v in template.spec.get("volumes", []) if "secret" in v}
    for name, container in containers(template):
        variables = _variables(container)
        if not (remote := variables.get(_REMOTE)):
            continue
        scheme = "ssh" if _SHORT_SSH.match(remote) else urlsplit(remote).scheme
        settings = " ".join(value for key, value in variables.items() if key.startswith("GIT_"))
        for what, pattern in _NEEDED.get(scheme, {}).items():
            if (given := re.search(pattern, settings)) is None:
                yield f"{name} asks {remote} by {scheme}, and its settings of Git name not {what}"
            elif given[1].startswith("/") and not _is_there(PurePosixPath(given[1]), container, secrets, held):
                yield f"{name} asks {remote}, and no secret puts {what} at {given[1]}"


def _is_there(
    file: PurePosixPath, container: dict[str, Any], secrets: dict[str, str], held: set[tuple[str, str]]
) -> bool:
    return any(
        PurePosixPath(mount["mountPath"]) == file.parent and (secrets.get(mount["name"]), file.name) in held
        for mount in container.get("volumeMounts", [])
    )


def _variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
