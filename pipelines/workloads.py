"""Read what only Kubernetes knows of a run: words of its scheduler, events of its pods, Argo's messages.

Nothing here is needed for a run. Where no kubeconfig is at hand, or it may not read this, each answer is None, and
the caller says which command shows it.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from urllib3.exceptions import HTTPError

T = TypeVar("T")
_SECONDS = 5
CONTROLLER = "workflow-controller-configmap"


class Workloads:
    """The objects of one namespace, read by the kubeconfig or by the account of the pod that this is."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._client: Any = None
        self._known = False

    def node_messages(self, workflow: str) -> dict[str, tuple[str, str]] | None:
        """Return phase and message of each node of a run by the node's id."""

        def read(client: Any, kubernetes: Any) -> dict[str, tuple[str, str]]:
            found = kubernetes.client.CustomObjectsApi(client).get_namespaced_custom_object(
                "argoproj.io", "v1alpha1", self.namespace, "workflows", workflow, _request_timeout=_SECONDS
            )
            nodes = (found.get("status") or {}).get("nodes") or {}
            return {
                key: (str(node.get("phase") or ""), " ".join(str(node.get("message") or "").split()))
                for key, node in nodes.items()
            }

        return self._try(read)

    def pod_events(self, workflow: str, node: str) -> list[str] | None:
        """Return what was told of a node's pod, the newest last, such as `FailedScheduling: 0/1 nodes ...`."""
        number = node.rpartition("-")[2]

        def read(client: Any, kubernetes: Any) -> list[str]:
            found = kubernetes.client.CoreV1Api(client).list_namespaced_event(
                self.namespace, field_selector="involvedObject.kind=Pod", _request_timeout=_SECONDS
            )
            events = [
                event
                for event in found.items
                if (event.involved_object.name or "").startswith(workflow)
                and (event.involved_object.name or "").endswith(f"-{number}")
            ]
            events.sort(key=_time_of)
            return [f"{event.reason}: {' '.join((event.message or '').split())}" for event in events]

        return self._try(read)

    def pod_log(self, workflow: str, node: str) -> str | None:
        """Return the log of a node's own container."""
        number = node.rpartition("-")[2]

        def read(client: Any, kubernetes: Any) -> str | None:
            api = kubernetes.client.CoreV1Api(client)
            pods = api.list_namespaced_pod(
                self.namespace,
                label_selector=f"workflows.argoproj.io/workflow={workflow}",
                _request_timeout=_SECONDS,
            )
            names = [pod.metadata.name for pod in pods.items if pod.metadata.name.endswith(f"-{number}")]
            if not names:
                return None
            return str(
                api.read_namespaced_pod_log(names[0], self.namespace, container="main", _request_timeout=_SECONDS)
            )

        return self._try(read)

    def claim(self, name: str) -> tuple[str, list[str]] | None:
        """Return phase and access modes of a volume claim; phase `missing` if there is none."""

        def read(client: Any, kubernetes: Any) -> tuple[str, list[str]]:
            try:
                found = kubernetes.client.CoreV1Api(client).read_namespaced_persistent_volume_claim(
                    name, self.namespace, _request_timeout=_SECONDS
                )
            except kubernetes.client.ApiException as error:
                if error.status == 404 and "persistentvolumeclaims" in str(error.body):
                    return "missing", []
                raise
            return str(found.status.phase), list(found.spec.access_modes or [])

        return self._try(read)

    def job_succeeded(self, name: str) -> bool | None:
        """Return whether a Job has succeeded; None: it runs, or there is none."""

        def read(client: Any, kubernetes: Any) -> bool | None:
            status = (
                kubernetes.client.BatchV1Api(client)
                .read_namespaced_job_status(name, self.namespace, _request_timeout=_SECONDS)
                .status
            )
            failed = any(condition.type == "Failed" for condition in status.conditions or [])
            return False if failed else True if status.succeeded else None

        return self._try(read)

    def controller_settings(self) -> dict[str, str] | None:
        """Return the settings of Argo's workflow controller; the namespace is Kubeflow's own."""

        def read(client: Any, kubernetes: Any) -> dict[str, str]:
            found = kubernetes.client.CoreV1Api(client).read_namespaced_config_map(
                CONTROLLER, self.namespace, _request_timeout=_SECONDS
            )
            return dict(found.data or {})

        return self._try(read)

    def _try(self, read: Callable[[Any, Any], T | None]) -> T | None:
        import kubernetes  # noqa: PLC0415 - half a second, and only after a failure

        try:
            if not self._known:
                self._known = True
                self._client = _connect(kubernetes)
            return None if self._client is None else read(self._client, kubernetes)
        except kubernetes.client.ApiException:  # not allowed, or another cluster without it
            return None
        except (kubernetes.config.ConfigException, HTTPError, OSError, ValueError, LookupError):
            self._client = None  # no answer: waiting for the next would be in vain, too
            return None


def _connect(kubernetes: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            client = kubernetes.config.new_client_from_config(os.environ.get("KUBECONFIG") or None)
        except kubernetes.config.ConfigException:
            configuration = kubernetes.client.Configuration()
            kubernetes.config.load_incluster_config(configuration)
            client = kubernetes.client.ApiClient(configuration)
    return client


def _time_of(event: Any) -> float:
    for time in (event.last_timestamp, event.event_time, event.metadata.creation_timestamp):
        if time is not None:
            return float(time.timestamp())
    return 0.0
