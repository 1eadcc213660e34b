"""If Argo Rollouts has taken a release back, take it back in Git, too; else Git and the cluster would differ.

    python -m troika.releases.canary_guard --to production --rollout triton

Runs in the cluster, once, as a CronJob each minute. Reads one Rollout and its two ReplicaSets (given up, and
stable), and changes nothing in the cluster. Goes by the digest that the pods had: what was released meanwhile is
left alone. So is the release if the stable pods serve it, too: something else than the model was changed then,
and a person has to take that back.
"""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Abort:
    """What Argo Rollouts has given up."""

    digest: str
    """Of the model that the given-up pods served."""
    stable: str | None
    """Of the model that the stable pods serve; None if there are none yet."""
    reason: str
    """In the words of Argo Rollouts."""


def aborted(api: KubernetesApi, rollout: str) -> Abort | None:
    """Return what Argo Rollouts has given up; None if it has given up nothing.

    Raises:
        ReleaseError: it has, but what the pods served cannot be told; or see `KubernetesApi.read`.
    """
    status = api.read("argoproj.io/v1alpha1", f"rollouts/{rollout}").get("status", {})
    if not status.get("abort"):
        return None
    given_up, stable = status.get("currentPodHash", ""), status.get("stableRS", "")
    digest = _digest(api, given_up)
    if digest is None:
        raise ReleaseError(f"Rollout {rollout} was aborted, but its pods {given_up!r} name no single model digest")
    stable_digest = _digest(api, stable) if stable else None
    if stable and stable_digest is None:
        # Taking back a release that the stable pods may serve would hand out an older model.
        raise ReleaseError(
            f"Rollout {rollout} was aborted, but its stable pods {stable!r} name no single model digest"
        )
    return Abort(digest, stable_digest, str(status.get("message", "")).strip())


def _digest(api: KubernetesApi, template_hash: str) -> str | None:
    """Return the model digest that a template's pods serve; None if they name none, or several."""
    selector = quote(f"{_HASH}={template_hash}")
    sets = api.read("apps/v1", f"replicasets?labelSelector={selector}").get("items", [])
    annotations = [each["spec"]["template"]["metadata"].get("annotations", {}) for each in sets]
    digests = {str(each[DIGEST_ANNOTATION]) for each in annotations if DIGEST_ANNOTATION in each}
    return digests.pop() if len(digests) == 1 else None


def _not_the_releases(rollout: str, abort: Abort, commits: list[str]) -> str:
    """Return why the release stays, and where to look for what was aborted."""
    between = "; ".join(commits) or "none: something outside Git has changed the pods"
    return (
        f"{rollout} was aborted, and not for its model: its stable pods serve {abort.digest}, too, so the release "
        f"stays. Take back what else has changed the pods; commits since that release: {between}"
        + (f". Argo Rollouts says: {abort.reason}" if abort.reason else "")
    )


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
    """Take back in Git what the canary has taken back in the cluster.

    Exit status 1: it should, and cannot; or something else than the release was aborted, which a person must see.
    """
    try:
        abort = aborted(KubernetesApi(kubernetes, account), rollout)
        if abort is None:
            typer.echo(f"{rollout}: nothing was aborted")
            return
        digest = abort.digest
        if digest == abort.stable:
            commits = pointer.commits_since(remote, environment, branch=branch)
            raise ReleaseError(_not_the_releases(rollout, abort, commits))
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
