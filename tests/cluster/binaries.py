"""Find the programs of a Kubernetes: a folder of *.xz is unpacked once and kept, envtest's is used as it is."""

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from quick import REPOSITORY

FOLDER = "TROIKA_TEST_KUBERNETES"
ENVTEST = "KUBEBUILDER_ASSETS"
KUBECONFIG = "TROIKA_TEST_KUBECONFIG"
STATE = REPOSITORY / ".troika" / "cluster"
# One file holds them all and goes by the name that it is called by.
_KUBE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
# Debian's names of programs that a node needs beside Kubernetes' own.
_DEBIAN = {
    "containerd": "containerd",
    "runc": "runc",
    "ctr": "containerd",
    "iptables": "iptables",
    "nft": "nftables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "xz": "xz-utils",
    "unshare": "util-linux",
    "busybox": "busybox-static",
}
CNI = Path("/usr/lib/cni")  # Debian's containernetworking-plugins


@dataclass(frozen=True)
class Binaries:
    """Programs by their names."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def unavailable(reason: str) -> None:
    """Skip, but never in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run the cluster tests: {reason}")
    pytest.skip(reason)


def missing_on_node() -> list[str]:
    """Return the Debian packages that a node lacks here."""
    found = sorted({package for program, package in _DEBIAN.items() if not shutil.which(program)})
    return found if (CNI / "ptp").exists() else [*found, "containernetworking-plugins"]


def unpacked() -> Binaries | None:
    """Return the programs of the folder that the environment names, unpacked; None if it names none."""
    if not (source := os.environ.get(FOLDER)):
        return None
    target = STATE / "bin"
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for packed in sorted(Path(source).glob("*.xz")):
            _unpack(packed, target / packed.stem)
        for name in _KUBE:
            link = target / name
            if not link.is_symlink():
                link.symlink_to("kube")
    return Binaries(target)


def _unpack(packed: Path, target: Path) -> None:
    """Unpack one file, unless it has been since it was packed."""
    if target.exists() and target.stat().st_mtime >= packed.stat().st_mtime:
        return
    part = target.with_suffix(".part")
    with part.open("wb") as output:
        subprocess.run(["xz", "--decompress", "--stdout", packed], check=True, stdout=output)
    part.chmod(0o755)
    part.replace(target)
