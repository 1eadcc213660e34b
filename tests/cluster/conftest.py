"""One cluster for all tests of this folder: that of a kubeconfig, or one started here; else these are skipped."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from quick import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "manifests"))

from binaries import ENVTEST, FOLDER, KUBECONFIG, Binaries, missing_on_node, unavailable, unpacked
from check import CRDS
from control_plane import api_alone
from custom_resources import definitions
from kubectl import Kubectl, Object
from rendering import MANIFESTS, render_objects, roots
from whole import Cluster, whole_cluster

# Of a registry, where the cluster is not started here.
_BUSYBOX = os.environ.get("TROIKA_TEST_BUSYBOX", "docker.io/library/busybox:1.37")
_KUBECTL = os.environ.get("TROIKA_TEST_KUBECTL", "registry.k8s.io/kubectl:v1.36.0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def crds() -> Path:
    folder = os.environ.get(CRDS)
    if not folder:
        unavailable(f"{CRDS} names no folder of the CRDs' schemas")
    return Path(folder or "")


def _prepare(kubectl: Kubectl, crds: Path) -> None:
    """Make what a platform has before anything of ours comes."""
    made = kubectl.apply(definitions(crds))
    names = [f"customresourcedefinition/{each['metadata']['name']}" for each in made]
    kubectl.wait("condition=Established", *names)
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in ("argocd", "monitoring", "kubeflow", "shop")
    )


def _given(config: str, crds: Path) -> Cluster:
    """Return the cluster of a kubeconfig, which must hold nothing of ours, since tests delete what they make."""
    kubectl = Kubectl(Path(config))
    ours = [n["metadata"]["name"] for n in kubectl.list("namespaces")]
    ours = [name for name in ours if name.startswith("troika-")]
    assert not ours, f"{KUBECONFIG}: the cluster has {', '.join(ours)}, and the tests would delete them"
    _prepare(kubectl, crds)
    return Cluster(kubectl, _BUSYBOX, _KUBECTL)


@pytest.fixture(scope="session")
def cluster(crds: Path) -> Iterator[Cluster]:
    """A cluster with a node; `machine` is None where it was not started here."""
    if config := os.environ.get(KUBECONFIG):
        yield _given(config, crds)
        return
    if not os.environ.get(FOLDER):
        unavailable(f"neither {KUBECONFIG} names a cluster nor {FOLDER} the programs of one")
    if os.geteuid() != 0 or (missing := missing_on_node()):
        lacking = "root is needed" if os.geteuid() != 0 else f"Debian packages are missing: {' '.join(missing)}"
        unavailable(f"no cluster can be started here: {lacking}")
    binaries = unpacked()
    assert binaries is not None
    with whole_cluster(binaries) as started:
        _prepare(started.kubectl, crds)
        yield started


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """An API server at least: the cluster's, or envtest's, which has no controllers and no node."""
    assets = os.environ.get(ENVTEST)
    if assets and not os.environ.get(FOLDER) and not os.environ.get(KUBECONFIG):
        with api_alone(Binaries(Path(assets))) as config:
            kubectl = Kubectl(config)
            _prepare(kubectl, request.getfixturevalue("crds"))
            yield kubectl
        return
    yield request.getfixturevalue("cluster").kubectl


@pytest.fixture(scope="session")
def renders() -> dict[str, list[Object]]:
    return {folder.relative_to(MANIFESTS).as_posix(): render_objects(folder) for folder in roots()}
