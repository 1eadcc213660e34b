"""Staging under load, with the real images: releases, a rollback, lost and evicted pods, and no failed request.

The store is an S3 outside of the cluster; the manifests come from a Git repository that `release` writes into.
Staging as it is, but for two pods instead of an autoscaler's number, and less CPU asked for.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from binaries import STATE
from containers_engine import build_front, build_serve, engine, run
from kubectl import Object, RefusedError, remove_namespaces
from machine import OUTSIDE_ADDRESS, wait_for
from node import import_built
from pods import small_pod
from quick import REPOSITORY
from rendering import render_objects, the
from whole import Cluster

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))

from production import VERDICT, promote
from tiny_bundle import tiny_bundle

from troika.releases.bundle import Bundle
from troika.releases.pointer import release, rollback
from troika.releases.store import PublishedModel, publish

NAMESPACE = "troika-staging"
OVERLAY = Path("manifests/serving/overlays/staging")
GONE = {"CronJob", "ScaledObject", "ExternalSecret", "PodMonitor", "PrometheusRule"}
"""What has its own tests, or no operator here."""


@pytest.fixture(scope="module")
def images(cluster: Cluster) -> dict[str, str]:
    """The images of serving and of its front, built from their Dockerfiles and put into the node."""
    machine = cluster.machine
    if machine is None:
        pytest.skip("the cluster was not started here: its node does not have the images")
    with engine() as host:
        built = {"troika-serve": build_serve(host), "troika-front": build_front(host)}
        for name, tag in built.items():
            run(host, "save", "--output", STATE / "images" / f"{name}.tar", tag)
    return {name: import_built(machine, STATE / "images" / f"{name}.tar", tag) for name, tag in built.items()}


@contextmanager
def bucket(cluster: Cluster) -> Iterator[None]:
    """An S3 outside of the cluster, at the port that policies open; this process publishes into it."""
    machine = cluster.machine
    assert machine is not None
    server = Path(sys.executable).parent / "moto_server"
    machine.start("s3", server, f"--host={OUTSIDE_ADDRESS}", "--port=443", network="outside")
    port = machine.forward("forward-s3", OUTSIDE_ADDRESS, 443)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        make = [sys.executable, "-c", "import s3fs; s3fs.S3FileSystem().mkdir('models')"]
        wait_for(
            lambda: subprocess.run(make, check=False, capture_output=True).returncode == 0, 90, "store outside"
        )
        yield
    machine.stop("s3")
    machine.stop("forward-s3")


class Staging:
    """An environment that Git describes."""

    def __init__(self, cluster: Cluster, images: dict[str, str], folder: Path) -> None:
        self.cluster, self.kubectl, self.images, self.folder = cluster, cluster.kubectl, images, folder
        self.key, public = folder / "key.pem", folder / "key.pub"
        for command in (
            ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self.key)],
            ["ec", "-in", str(self.key), "-pubout", "-out", str(public)],
        ):
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        self.clone, self.remote = folder / "clone", folder / "remote.git"
        shutil.copytree(REPOSITORY / "manifests", self.clone / "manifests")
        file = self.clone / OVERLAY / "verify-key.yaml"
        content = yaml.safe_load(file.read_text())
        content["data"]["signing.pub"] = public.read_text()
        file.write_text(yaml.safe_dump(content))
        self._git("init", "--quiet", "--initial-branch=main")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message=Begin")
        self._git("clone", "--quiet", "--bare", ".", str(self.remote))
        self.bundles = {name: tiny_bundle(folder / name, note=name) for name in ("old", "new")}
        self.entries = {name: self._publish(bundle) for name, bundle in self.bundles.items()}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "model-store-read", "namespace": NAMESPACE},
            "stringData": {
                "credentials": "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n",
                "config": f"[default]\nregion = us-east-1\nendpoint_url = http://{OUTSIDE_ADDRESS}:443\n",
            },
        }
        self.kubectl.apply([t for t in self.things() if t["kind"] == "Namespace"])
        self.kubectl.apply([secret])

    def _publish(self, bundle: Bundle) -> PublishedModel:
        return publish(bundle, promote(bundle), "s3://models", self.key)

    def _git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *identity, *arguments], cwd=self.clone, check=True, capture_output=True)

    def things(self) -> list[Object]:
        """Return what Git says now, with the images of this test."""
        things = [t for t in render_objects(self.clone / OVERLAY) if t["kind"] not in GONE]
        things = [t for t in things if t["metadata"]["name"] != "quality-probe"]
        deployment = the(things, "Deployment")
        deployment["spec"]["replicas"] = 2
        pod = deployment["spec"]["template"]["spec"]
        for container in (*pod["initContainers"], *pod["containers"]):
            name = container["image"].split("@")[0].rpartition("/")[2]
            container["image"] = self.images[name]
            container["resources"]["requests"] |= {"cpu": "50m"}
        return things

    def apply(self) -> None:
        """Pull and apply, and wait for the end of the roll-out."""
        self._git("pull", "--quiet", str(self.remote), "main")
        self.kubectl.apply(self.things())
        self.settle()

    def settle(self) -> None:
        self.kubectl.run(
            "rollout", "status", "deployment/triton", f"--namespace={NAMESPACE}", "--timeout=300s", timeout=330
        )

    def release(self, name: str) -> None:
        release(self.remote, "staging", self.entries[name], VERDICT)
        self.apply()

    def rollback(self) -> None:
        rollback(self.remote, "staging")
        self.apply()

    def pods(self) -> list[str]:
        """Return the pods that are there to stay."""
        found = self.kubectl.list("pods", NAMESPACE, "app.kubernetes.io/name=triton")
        return [p["metadata"]["name"] for p in found if "deletionTimestamp" not in p["metadata"]]

    def evict(self, pod: str) -> None:
        """Ask for a pod's room as a drain does."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        self.kubectl.run("create", f"--raw={path}", "--filename=-", text=json.dumps(eviction))

    @contextmanager
    def load(self, name: str) -> Iterator[dict[str, Any]]:
        """Keep users asking; what they saw is there when this ends."""
        script = (Path(__file__).parent / "load.py").read_text(encoding="utf-8")
        file = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "data": {"load.py": script},
        }
        digests = ",".join(bundle.digest for bundle in self.bundles.values())
        pod = small_pod(
            NAMESPACE, name, self.images["troika-serve"], f"exec python /load/load.py tiny {digests}",
            labels={"troika/triton-client": "true"},
            volumes=[{"name": "load", "configMap": {"name": name}}],
            volumeMounts=[{"name": "load", "mountPath": "/load"}],
        )  # fmt: skip
        pod["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1", "memory": "512Mi"}
        self.kubectl.apply([file, pod])
        wait_for(lambda: "asking" in self.kubectl.logs(NAMESPACE, name), 180, "load")
        counts: dict[str, Any] = {}
        yield counts
        self.kubectl.execute(NAMESPACE, name, "touch", "/tmp/stop")
        self.kubectl.finished(NAMESPACE, name)
        counts |= json.loads(self.kubectl.logs(NAMESPACE, name).splitlines()[-1])


@pytest.fixture(scope="module")
def staging(
    cluster: Cluster, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Staging]:
    with bucket(cluster):
        made = Staging(cluster, images, tmp_path_factory.mktemp("staging"))
        made.release("old")
        yield made
        remove_namespaces(cluster.kubectl, [NAMESPACE])


def test_releases_and_a_rollback_fail_no_request(staging: Staging) -> None:
    with staging.load("users-of-releases") as seen:
        staging.release("new")
        staging.rollback()
    assert seen["failed"] == 0, seen
    assert set(seen["seen"]) == {bundle.digest for bundle in staging.bundles.values()}
    assert seen["right"] > 500


def test_deleted_and_evicted_pods_fail_no_request(staging: Staging) -> None:
    with staging.load("users-of-lost-pods") as seen:
        staging.kubectl.delete("pod", staging.pods()[0], namespace=NAMESPACE)
        staging.settle()
        one, other = staging.pods()
        staging.evict(one)
        with pytest.raises(RefusedError, match="disruption budget"):
            staging.evict(other)
        staging.settle()
    assert seen["failed"] == 0, seen
    assert seen["right"] > 500
