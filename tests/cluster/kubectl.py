"""kubectl with one kubeconfig: objects in, objects out."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
# Of the environment that the Makefile makes.
PROGRAM = Path(sys.executable).parent / "kubectl"


class RefusedError(Exception):
    """The cluster, or kubectl itself, refuses; its words."""


class Kubectl:
    """An administrator of one cluster, or somebody else by impersonation."""

    def __init__(self, config: Path, *more: str) -> None:
        self.config, self._more = config, more

    def as_account(self, namespace: str, name: str) -> "Kubectl":
        """Return kubectl for a service account, by impersonation."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return Kubectl(
            self.config,
            f"--as=system:serviceaccount:{namespace}:{name}",
            *(f"--as-group={group}" for group in groups),
        )

    def run(
        self, *arguments: str | Path, text: str | None = None, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run one command.

        Raises:
            RefusedError: it fails, and `check` is set.
        """
        done = subprocess.run(
            [PROGRAM, f"--kubeconfig={self.config}", *self._more, *map(str, arguments)],
            check=False, capture_output=True, text=True, input=text, timeout=timeout,
            env={**os.environ, "KUBECTL_KUBERC": "false", "KUBECONFIG": ""},
        )  # fmt: skip
        if check and done.returncode:
            raise RefusedError(
                f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done

    def apply(self, things: Iterable[Object], *more: str, manager: str = "troika-test") -> list[Object]:
        """Apply by the server, as GitOps controllers do; the objects as they then are.

        Raises:
            RefusedError: an object is not admitted, or another manager owns a field of it.
        """
        text = yaml.safe_dump_all(things)
        arguments = ("--server-side", f"--field-manager={manager}", "--output=json", "--filename=-")
        return _items(self.run("apply", *arguments, *more, text=text).stdout)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Return one object."""
        where = [f"--namespace={namespace}"] if namespace else []
        found: Object = json.loads(self.run("get", kind, name, *where, "--output=json").stdout)
        return found

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """Return objects of a kind, in one namespace or in all."""
        where = f"--namespace={namespace}" if namespace else "--all-namespaces"
        text = self.run("get", kind, where, f"--selector={selector}", "--output=json").stdout
        found: list[Object] = json.loads(text)["items"]
        return found

    def delete(self, kind: str, *names: str, namespace: str | None = None) -> None:
        """Delete objects, and do not wait for their end."""
        where = [f"--namespace={namespace}"] if namespace else []
        self.run("delete", kind, *names, *where, "--ignore-not-found", "--wait=false")

    def wait(self, what: str, *arguments: str, seconds: int = 120) -> None:
        """Return when objects are in a state, such as `condition=Ready`."""
        self.run("wait", f"--for={what}", f"--timeout={seconds}s", *arguments, timeout=seconds + 60)

    def execute(self, namespace: str, pod: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod's first container."""
        return self.run("exec", f"--namespace={namespace}", pod, "--", *command, check=False)

    def logs(self, namespace: str, pod: str, *more: str) -> str:
        """Return what a pod has written."""
        return self.run("logs", f"--namespace={namespace}", pod, *more, check=False).stdout

    def finished(self, namespace: str, pod: str, seconds: float = 120) -> str:
        """Return the phase that a pod ends in, and what it has written."""
        end = time.monotonic() + seconds
        while (phase := self.get("pod", pod, namespace)["status"].get("phase")) not in {"Succeeded", "Failed"}:
            if time.monotonic() > end:
                events = self.run("describe", "pod", pod, f"--namespace={namespace}").stdout[-2000:]
                raise AssertionError(f"pod {pod} is {phase}\n{events}")
            time.sleep(0.3)
        return str(phase)


def remove_namespaces(kubectl: Kubectl, names: list[str]) -> None:
    """Delete namespaces and what they hold, and wait for the end of it."""
    if names:
        kubectl.run("delete", "namespace", *names, "--ignore-not-found", "--timeout=170s")


def _items(text: str) -> list[Object]:
    """Return the objects of kubectl's JSON: one, a list, or several one after another."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        each, end = decoder.raw_decode(text)
        found += each["items"] if each["kind"] == "List" else [each]
        text = text[end:].strip()
    return found
