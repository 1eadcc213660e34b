"""Triton's pod as the manifests have it, run by a container engine: commands, settings, user, volumes and probes.

What Kubernetes itself does (scheduling, network policies, the order of a rolling update) is not shown by it.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers_engine import run
from quick import REPOSITORY

from troika.releases.bundle import Bundle
from troika.releases.pointer import ensure_local_remote, read_release, release
from troika.releases.store import PublishedModel, publish
from troika.serving.client import Client
from troika.serving.triton_process import answer, choose_ports

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))
sys.path.insert(0, str(REPOSITORY / "tests" / "manifests"))

from fake_kubernetes import DIGESTS, FakeKubernetes
from rendering import Object, render_objects, templates
from s3_server import s3_server
from ssh_server import ssh_server
from tiny_bundle import expected_images, tiny_bundle

pytestmark = pytest.mark.containers
VERDICT = "sha256:" + "e" * 64


class Pod:
    """A pod template, its volumes as folders and memory of this machine, in the host's network."""

    def __init__(self, host: str, image: str, spec: dict[str, Any], scratch: Path, files: dict[str, Any]) -> None:
        self.host, self.image, self.spec = host, image, spec
        self.images: dict[str, str] = {}  # of containers that have another
        self.folders: dict[str, Path] = {}
        for volume in spec["volumes"]:
            name = volume["name"]
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                continue
            self.folders[name] = scratch / name
            self.folders[name].mkdir(parents=True)
            source = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name") or name
            for file, text in files.get(source, {}).items():
                (self.folders[name] / file).write_text(text)
                (self.folders[name] / file).chmod(0o444)
            # What fsGroup does for an emptyDir.
            self.folders[name].chmod(0o2777 if "emptyDir" in volume else 0o755)

    def run(self, name: str, *options: str, environment: dict[str, Any] | None = None) -> Any:
        """`docker run` of one container of the pod; more settings than the pod's are a test's ports."""
        containers = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        (container,) = [c for c in containers if c["name"] == name]
        security = {**self.spec["securityContext"], **container["securityContext"]}
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        command = [
            "run", *options, "--network=host", "--read-only", "--pids-limit=512",
            "--security-opt=no-new-privileges",
            f"--user={security['runAsUser']}:{security['runAsGroup']}",
            *(f"--cap-drop={capability}" for capability in security["capabilities"]["drop"]),
            f"--memory={docker_size(container['resources']['limits']['memory'])}",
            f"--entrypoint={container['command'][0]}",
        ]  # fmt: skip
        settings = {variable["name"]: variable["value"] for variable in container["env"]}
        for key, value in {**settings, **(environment or {})}.items():
            command.append(f"--env={key}={value}")
        memory = {v["name"]: v["emptyDir"] for v in self.spec["volumes"] if "emptyDir" in v}
        for mount in container.get("volumeMounts", []):
            if mount["name"] in self.folders:
                mode = "ro" if mount.get("readOnly") else "rw"
                command.append(f"--volume={self.folders[mount['name']]}:{mount['mountPath']}:{mode}")
            else:
                assert mount["mountPath"] == "/dev/shm"
                command.append(f"--shm-size={docker_size(memory[mount['name']]['sizeLimit'])}")
        image = self.images.get(name, self.image)
        return run(self.host, *command, image, *container["command"][1:], check=False)


def docker_size(quantity: str) -> str:
    return quantity.removesuffix("i").lower()


def the(things: list[Object], where: str) -> dict[str, Any]:
    (found,) = [template for template in templates(things) if template.where == where]
    return found.spec


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private keys of the one who is trusted, and of somebody else; public ones beside them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("trusted", "other"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private]
        subprocess.run(make, check=True, capture_output=True)
        show = ["openssl", "ec", "-in", private, "-pubout", "-out", public]
        subprocess.run(show, check=True, capture_output=True)
    return {file.name: file for file in folder.iterdir()}


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Path]
) -> Iterator[tuple[Bundle, list[Object], dict[str, Any]]]:
    """A signed model in a bucket, released to production; what that renders to; the pod's secrets and keys."""
    folder = tmp_path_factory.mktemp("released")
    bundle = tiny_bundle(folder / "bundle")
    with s3_server() as server:
        entry = publish(
            bundle, {"decision": "promote", "bundle_digest": bundle.digest}, "s3://models", keys["trusted.pem"]
        )
        shutil.copytree(REPOSITORY / "manifests", folder / "clone" / "manifests")
        for command in (
            ["init", "--quiet", "--initial-branch=main"],
            ["add", "--all"],
            ["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message=Begin"],
            ["clone", "--quiet", "--bare", ".", str(folder / "remote.git")],
        ):
            subprocess.run(["git", *command], cwd=folder / "clone", check=True, capture_output=True)
        release(folder / "remote.git", "production", entry, VERDICT)
        pull = ["git", "pull", "--quiet", str(folder / "remote.git"), "main"]
        subprocess.run(pull, cwd=folder / "clone", check=True, capture_output=True)
        things = render_objects(folder / "clone" / "manifests" / "serving" / "overlays" / "production")
        files = {
            "model-store-read": {
                "credentials": "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n",
                "config": f"[default]\nregion = us-east-1\nendpoint_url = {server.endpoint}\n",
            },
            "model-verify-key": {"signing.pub": keys["trusted.pub"].read_text()},
        }
        yield bundle, things, files


def the_front_lets_little_through_and_ends_in_peace(
    host: str, spec: dict[str, Any], front: str, http: int, metrics: int
) -> None:
    live = spec["containers"][1]["livenessProbe"]["httpGet"]["path"]
    assert answer(metrics, live) is not None
    assert b"haproxy_frontend_requests_denied_total" in (answer(metrics, "/front/metrics") or b"")
    assert answer(http, "/v2/models/stats") is None
    signal_of_image = json.loads(run(host, "inspect", "--format={{json .Config.StopSignal}}", front).stdout)
    assert signal_of_image == "SIGUSR1"
    run(host, "stop", "--time=40", front)
    assert json.loads(run(host, "inspect", "--format={{json .State.ExitCode}}", front).stdout) == 0


def test_the_pod_of_production_fetches_serves_is_asked_and_ends(
    host: str,
    serve_image: str,
    front_image: str,
    released: tuple[Bundle, list[Object], dict[str, Any]],
    tmp_path: Path,
) -> None:
    bundle, things, files = released
    spec = the(things, "Deployment/triton")
    pod = Pod(host, serve_image, spec, tmp_path / "pod", files)
    pod.images["front"] = front_image
    fetched = pod.run("model-fetch", "--rm")
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    assert bundle.digest in fetched.stdout

    names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT")
    inner = {f"TROIKA_{name}": port for name, port in zip(names, choose_ports((0, 0, 0)), strict=True)}
    http, grpc, metrics = choose_ports((0, 0, 0))
    outer = {f"TROIKA_FRONT_{name}": port for name, port in zip(names, (http, grpc, metrics), strict=True)}
    container = pod.run("triton", "--detach", environment=inner).stdout.strip()
    started = pod.run("front", "--detach", environment={**inner, **outer})
    front = started.stdout.strip()
    assert started.returncode == 0, started.stderr
    try:
        triton = spec["containers"][0]
        ready, live = (triton[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe"))
        assert triton["startupProbe"]["httpGet"]["path"] == ready
        deadline = time.monotonic() + 90
        while answer(http, ready) is None:
            logs = run(host, "logs", container)
            of_front = run(host, "logs", front)
            assert time.monotonic() < deadline, logs.stdout + logs.stderr + of_front.stdout + of_front.stderr
            assert json.loads(run(host, "inspect", "--format={{json .State.Running}}", container).stdout), logs
            time.sleep(0.1)
        assert answer(http, live) is not None
        with Client(f"127.0.0.1:{grpc}", model=bundle.model) as client:
            made = client.generate(2, seed=5, labels=1)
        assert made.model_digest == bundle.digest
        assert (made.images == expected_images([5, 6], [1, 1])).all()
        assert b"nv_inference_queue_duration_us" in (answer(metrics, "/metrics") or b"")

        smoke = Pod(host, serve_image, the(things, "Job/smoke-golden-images"), tmp_path / "smoke", files)
        assert smoke.run("model-fetch", "--rm").returncode == 0
        asked = smoke.run("smoke", "--rm", environment={"TROIKA_SERVER": f"127.0.0.1:{grpc}"})
        assert asked.returncode == 0, asked.stdout + asked.stderr
        silent = smoke.run("smoke", "--rm", environment={"TROIKA_SERVER": f"127.0.0.1:{closed_port()}"})
        assert silent.returncode == 1

        the_front_lets_little_through_and_ends_in_peace(host, spec, front, http, metrics)

        # No more than the pod gives: 45 s for requests, within 90 s in all.
        begun = time.monotonic()
        run(host, "stop", f"--time={spec['terminationGracePeriodSeconds']}", container)
        assert time.monotonic() - begun < spec["terminationGracePeriodSeconds"]
        assert json.loads(run(host, "inspect", "--format={{json .State.ExitCode}}", container).stdout) == 128 + 15
    finally:
        run(host, "rm", "--force", container, front)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda files, keys: files["model-verify-key"].update({"signing.pub": keys["other.pub"].read_text()}),
            "sign",
        ),
        (lambda files, keys: files["model-verify-key"].update({"signing.pub": ""}), "signing.pub"),
        (lambda files, keys: files["model-store-read"].update({"credentials": ""}), "s3://models"),
    ],
    ids=["another key", "no key yet", "no credentials"],
)
def test_the_init_container_takes_nothing_it_cannot_trust(
    host: str,
    serve_image: str,
    released: tuple[Bundle, list[Object], dict[str, Any]],
    keys: dict[str, Path],
    tmp_path: Path,
    spoil: Any,
    words: str,
) -> None:
    _, things, files = released
    files = {name: dict(content) for name, content in files.items()}
    spoil(files, keys)
    pod = Pod(host, serve_image, the(things, "Deployment/triton"), tmp_path / "pod", files)
    fetched = pod.run("model-fetch", "--rm")
    assert fetched.returncode == 1, fetched.stdout + fetched.stderr
    assert fetched.stderr.startswith("error: ")
    assert words in fetched.stderr
    assert not list(pod.folders["models"].iterdir())


def test_the_canary_guard_takes_back_in_git_what_the_cluster_has_given_up(
    host: str, light_image: str, released: tuple[Bundle, list[Object], dict[str, Any]], tmp_path: Path
) -> None:
    """Its account and the cluster's API are a fake's; Git answers by ssh, to the key that the secret holds."""
    _, things, _ = released
    remote = ensure_local_remote(tmp_path / "remote.git")
    for letter in "ab":
        release(
            remote, "production", PublishedModel("digits", DIGESTS[letter], "s3://models", created=True), VERDICT
        )
    account = {"token": "token-of-test", "namespace": "troika-production"}
    cluster = FakeKubernetes()
    try:
        with ssh_server(tmp_path / "ssh") as git:
            files = {"account": account, "release-git": git.secret}
            pod = Pod(host, light_image, the(things, "CronJob/canary-guard"), tmp_path / "pod", files)
            settings = {"TROIKA_KUBERNETES": cluster.url, "TROIKA_RELEASE_REMOTE": f"{git.url}{remote}"}
            calm = pod.run("canary-guard", "--rm", environment=settings)
            assert (calm.returncode, calm.stdout) == (0, "triton: nothing was aborted\n"), calm.stderr
            cluster.abort = True
            done = pod.run("canary-guard", "--rm", environment=settings)
            assert done.returncode == 0, done.stdout + done.stderr
            found = read_release(remote, "production")
            assert found is not None
            assert found.digest == DIGESTS["a"]
            cluster.refuse = True
            assert pod.run("canary-guard", "--rm", environment=settings).returncode == 1
    finally:
        cluster.server.shutdown()
        cluster.server.server_close()


def test_the_probe_reads_git_by_ssh_with_the_key_that_its_secret_holds(
    host: str, probe_image: str, released: tuple[Bundle, list[Object], dict[str, Any]], tmp_path: Path
) -> None:
    """Seen on a cluster: it asked by ssh, and had neither a key nor the program."""
    _, things, _ = released
    remote = ensure_local_remote(tmp_path / "remote.git")
    release(remote, "production", PublishedModel("digits", DIGESTS["a"], "s3://models", created=True), VERDICT)
    spec = the(things, "Deployment/quality-probe")
    with ssh_server(tmp_path / "ssh") as git:
        pod = Pod(host, probe_image, spec, tmp_path / "pod", {"release-repository-read": git.secret})
        (port, *_) = choose_ports((0, 0, 0))
        settings = {"TROIKA_RELEASE_REMOTE": f"{git.url}{remote}", "TROIKA_METRICS_PORT": port}
        name = pod.run("probe", "--detach", environment=settings).stdout.strip()
        try:
            wanted = f'digest="{DIGESTS["a"]}"'.encode()
            deadline = time.monotonic() + 120
            while wanted not in (said := answer(port, "/metrics") or b"") or b'source="git"' not in said:
                log = run(host, "logs", name)
                assert time.monotonic() < deadline, log.stdout + log.stderr
                time.sleep(0.3)
        finally:
            run(host, "rm", "--force", name)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
