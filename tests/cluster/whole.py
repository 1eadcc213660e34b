"""A whole cluster on this machine, in namespaces of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from binaries import Binaries
from control_plane import certificates, start_api, start_controllers, wait_for_api
from images import Image
from kubectl import Kubectl
from machine import NODE_ADDRESS, Machine
from node import cluster_dns, node_is_ready, small_images, start_node, start_policies, volumes


@dataclass
class Cluster:
    """What tests know of a cluster."""

    kubectl: Kubectl
    busybox: str
    """Image of a pod that probes, listens or waits."""
    kubectl_image: str
    machine: Machine | None = None
    """The machine that it runs in, if it is ours."""
    binaries: Binaries | None = None
    images: dict[str, Image] = field(default_factory=dict)


@contextmanager
def whole_cluster(binaries: Binaries) -> Iterator[Cluster]:
    """Start everything; when this ends nothing of it is left."""
    with Machine() as machine:
        pki = certificates(machine.folder / "pki")
        for name in ("controller-manager", "scheduler", "kube-proxy", "kubelet"):
            pki.kubeconfig(machine.folder / f"{name}.kubeconfig", name, f"https://{NODE_ADDRESS}:6443")
        pki.kubeconfig(machine.folder / "admin-inside.kubeconfig", "admin", f"https://{NODE_ADDRESS}:6443")
        start_api(
            machine.start, binaries, pki.folder, machine.folder / "etcd", ports=(2379, 2380, 6443),
            address=NODE_ADDRESS,
        )  # fmt: skip
        port = machine.forward("forward-api", NODE_ADDRESS, 6443)
        config = pki.kubeconfig(machine.folder / "admin.kubeconfig", "admin", f"https://127.0.0.1:{port}")
        kubectl = Kubectl(config)
        images = small_images()
        wait_for_api(config, lambda: list(machine.has_ended()))
        start_controllers(machine, binaries, pki.folder)
        start_node(machine, binaries, pki.folder, images)
        kubectl.apply([*cluster_dns(images["coredns"].reference), *volumes(Path(machine.folder / "volumes"))])
        node_is_ready(kubectl)
        start_policies(machine, binaries)
        kubectl.run("rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=120s")
        yield Cluster(kubectl, images["busybox"].reference, images["kubectl"].reference, machine, binaries, images)
