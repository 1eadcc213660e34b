"""If Argo Rollouts has taken a release back, take it back in Git, too; else Git and the cluster would differ.

    python -m troika.releases.canary_guard --to production --rollout triton

Runs in the cluster, once, as a CronJob each minute. Reads one Rollout and the ReplicaSet that was given up, and
changes nothing in the cluster. Goes by the digest that the pods had: what was released meanwhile is left alone.
"""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from troika.errors import ReleaseError, SupersededError, TroikaError
from troika.releases import pointer

DIGEST_ANNOTATION = "troika/model-digest"
_HASH = "rollouts-pod-template-hash"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 20


class KubernetesApi:
    """What one account may read in one namespace.

    Args:
        url: of the API server.
        account: folder with `token`, `namespace` and, for https, `ca.crt`, as Kubernetes mounts them.
    """

    def __init__(self, url: str, account: Path) -> None:
        self._url = url.rstrip("/")
        try:
            self._token = (account / "token").read_text(encoding="utf-8").strip()
            self._namespace = (account / "namespace").read_text(encoding="utf-8").strip()
            self._tls = ssl.create_default_context(cafile=account / "ca.crt") if url.startswith("https:") else None
        except (OSError, ssl.SSLError) as error:
            raise ReleaseError(f"{account} does not hold a service account's files: {error}") from None

    def read(self, group: str, path: str) -> dict[str, Any]:
        """An object, or a list of them, such as `rollouts/triton` of `argoproj.io/v1alpha1`.

        Raises:
            ReleaseError: the API does not answer, or refuses.
        """
        url = f"{self._url}/apis/{group}/namespaces/{self._namespace}/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS, context=self._tls) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise ReleaseError(f"Kubernetes refuses {path}: {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            raise ReleaseError(f"Kubernetes does not answer at {self._url}: {error}") from None
        return found


def aborted_digest(api: KubernetesApi, rollout: str) -> str | None:
    """Digest of the model that Argo Rollouts has given up; None if it has given up nothing.

    Raises:
        ReleaseError: it has, but what the pods served cannot be told; or see `KubernetesApi.read`.
    """
    status = api.read("argoproj.io/v1alpha1", f"rollouts/{rollout}").get("status", {})
    if not status.get("abort"):
        return None
    given_up = status.get("currentPodHash", "")
    selector = quote(f"{_HASH}={given_up}")
    sets = api.read("apps/v1", f"replicasets?labelSelector={selector}").get("items", [])
    annotations = [each["spec"]["template"]["metadata"].get("annotations", {}) for each in sets]
    digests: set[str] = {each[DIGEST_ANNOTATION] for each in annotations if DIGEST_ANNOTATION in each}
    if len(digests) != 1:
        raise ReleaseError(f"Rollout {rollout} was aborted, but its pods {given_up!r} name no single model digest")
    return digests.pop()


def main(
    remote: Annotated[str, typer.Option(envvar="TROIKA_RELEASE_REMOTE", help="Git repository of releases.")],
    environment: Annotated[str, typer.Option("--to", envvar="TROIKA_ENVIRONMENT", help="Whose release.yaml.")],
    rollout: Annotated[str, typer.Option(envvar="TROIKA_ROLLOUT", help="Name of the Rollout.")] = "triton",
    branch: Annotated[str, typer.Option(envvar="TROIKA_BRANCH", help="Branch that the cluster follows.")] = "main",
    kubernetes: Annotated[
        str, typer.Option(envvar="TROIKA_KUBERNETES", help="URL of the API server.")
    ] = "https://kubernetes.default.svc",
    account: Annotated[
        Path, typer.Option(envvar="TROIKA_ACCOUNT", help="Folder of the account's files.")
    ] = _ACCOUNT,
) -> None:
    """Take back in Git what the canary has taken back in the cluster. Exit status 1: it should, and cannot."""
    try:
        digest = aborted_digest(KubernetesApi(kubernetes, account), rollout)
        if digest is None:
            typer.echo(f"{rollout}: nothing was aborted")
            return
        try:
            back, commit, _ = pointer.rollback(remote, environment, only_from=digest, branch=branch)
        except SupersededError as error:
            typer.echo(f"{rollout}: {digest} was aborted; {error}")
            return
        typer.echo(
            f"{rollout}: {digest} was aborted; {environment} is back at {back.version}, commit {commit[:12]}"
        )
    except TroikaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
