"""etcd, API server, controllers and scheduler: inside a machine of their own, or the first two on this one."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from binaries import Binaries
from certificates import Certificates
from kubectl import Kubectl
from machine import NODE_ADDRESS, PODS, SERVICES, Machine, wait_for

from troika.serving.triton_process import choose_ports

Start = Callable[..., object]
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_NAMES = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "10.96.0.1"]
_CLIENTS = {
    "admin": ("admin", "system:masters"),
    "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "front-proxy-client": ("front-proxy-client", None),
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
}


def certificates(folder: Path) -> Certificates:
    """Write the certificates of all parts."""
    made = Certificates(folder)
    made.issue("apiserver", "kube-apiserver", addresses=[*_NAMES, f"{_NAMES[2]}.cluster.local", NODE_ADDRESS])
    made.issue("kubelet", "system:node:node-1", "system:nodes", addresses=["node-1", NODE_ADDRESS, "127.0.0.1"])
    for name, (user, group) in _CLIENTS.items():
        made.issue(name, user, group)
    return made


def start_api(
    start: Start, binaries: Binaries, pki: Path, data: Path, *, ports: tuple[int, int, int], address: str
) -> None:
    """Start etcd and the API server; ports: etcd's for clients and for peers, the API server's."""
    clients, peers, secure = ports
    etcd = f"http://127.0.0.1:{clients}"
    start(
        "etcd", binaries["etcd"], "--name=n1", f"--data-dir={data}", f"--listen-client-urls={etcd}",
        f"--advertise-client-urls={etcd}", f"--listen-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=n1=http://127.0.0.1:{peers}", "--unsafe-no-fsync", "--log-level=warn",
    )  # fmt: skip
    start(
        "kube-apiserver", binaries["kube-apiserver"], f"--etcd-servers={etcd}", f"--advertise-address={address}",
        f"--secure-port={secure}", f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--profiling=false",
        f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key", f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key", "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={_ISSUER}", f"--api-audiences={_ISSUER}",
        f"--service-account-key-file={pki}/accounts.pub", f"--service-account-signing-key-file={pki}/accounts.key",
        f"--requestheader-client-ca-file={pki}/ca.crt", "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing=true",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
    )  # fmt: skip


def start_controllers(machine: Machine, binaries: Binaries, pki: Path) -> None:
    """Start the controllers and the scheduler, once the API answers."""
    for name, more in {
        "controller-manager": (
            "--use-service-account-credentials=true", f"--service-account-private-key-file={pki}/accounts.key",
            f"--root-ca-file={pki}/ca.crt", f"--client-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
            "--allocate-node-cidrs=true", f"--cluster-cidr={PODS}", "--node-cidr-mask-size=24",
            f"--service-cluster-ip-range={SERVICES}",
            # A test that waits for a node's loss waits seconds.
            "--node-monitor-grace-period=20s",
        ),
        "scheduler": (),
    }.items():  # fmt: skip
        config = machine.folder / f"{name}.kubeconfig"
        machine.start(
            f"kube-{name}", binaries[f"kube-{name}"], f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
            "--leader-elect=false", "--bind-address=127.0.0.1", *more,
        )  # fmt: skip


@contextmanager
def api_alone(binaries: Binaries) -> Iterator[Path]:
    """Run etcd and an API server on this machine, as envtest does; the kubeconfig of an administrator."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="troika-api-") as scratch:
        folder = Path(scratch)

        def start(name: str, *command: str | Path) -> None:
            with (folder / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        ["setpriv", "--pdeathsig=KILL", *map(str, command)],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ,
                    )
                )  # fmt: skip

        try:
            pki = certificates(folder / "pki")
            ports = choose_ports((0, 0, 0))
            config = pki.kubeconfig(folder / "admin.kubeconfig", "admin", f"https://127.0.0.1:{ports[2]}")
            start_api(start, binaries, pki.folder, folder / "etcd", ports=ports, address="127.0.0.1")
            wait_for_api(config, lambda: [p.args for p in started if p.poll() is not None])
            yield config
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()


def wait_for_api(config: Path, ended: Callable[[], list[object]]) -> None:
    """Return when the API server has started completely."""
    kubectl = Kubectl(config)

    def ready() -> bool:
        assert not ended(), f"ended: {ended()}"
        return kubectl.run("get", "--raw=/readyz", check=False).returncode == 0

    wait_for(ready, 120, "API server")
