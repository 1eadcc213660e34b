"""Look at what a run needs before it starts: `troika doctor`, on a laptop and in the train image alike.

Each check says pass, warn or fail, and how to mend it. Checks only what it is told of; changes nothing that stays.
"""

import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from troika import doctor_kubeflow
from troika.credentials import without_credentials
from troika.doctor_kubeflow import Cluster, Finding
from troika.errors import TroikaError, install_hint
from troika.serving.address import check_host_port, is_local

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_ENOUGH_SHARED_MEMORY = 256 * 2**20
_SECONDS = 10.0


@dataclass(frozen=True)
class Surroundings:
    """Where to look; None leaves a check out."""

    store: str | None
    remote: str | None
    branch: str
    kubeflow: Cluster | None = None
    triton: str | None = None
    """HOST:PORT of Triton's HTTP side."""
    repository: Path | None = None
    """A DVC repository."""


def examine(where: Surroundings) -> Iterator[Finding]:
    """All checks, one after the other; none raises, whatever it finds."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("training framework", _framework),
        ("shared memory", _shared_memory),
    ]
    store, remote, triton, repository = where.store, where.remote, where.triton, where.repository
    if store is not None:
        checks.append(("model store", lambda: _store(store)))
    if remote is not None:
        checks.append(("release repository", lambda: _git(remote, where.branch)))
    if repository is not None:
        checks.append(("data remote", lambda: _dvc(repository)))
    if where.kubeflow is not None:
        checks += doctor_kubeflow.checks(where.kubeflow)
    if (folder := doctor_kubeflow.training_folder()) is not None:
        yield folder
    checks.append(("Triton", (lambda: _triton(triton)) if triton is not None else _own_triton))
    for name, check in checks:
        try:
            yield check()
        except TroikaError as error:
            yield Finding("fail", name, str(error))
        except Exception as error:
            yield Finding("fail", name, without_credentials(f"{type(error).__name__}: {error}"))


def _framework() -> Finding:
    name = "training framework"
    try:
        import torch  # noqa: PLC0415 - a serving machine has none
    except ImportError:
        return Finding("warn", name, "PyTorch is not installed", f"{install_hint('pytorch')} to train here")
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Finding(
            "pass",
            name,
            f"PyTorch {torch.__version__}, {torch.cuda.device_count()} GPU: {found.name}, "
            f"{found.total_memory / 2**30:.0f} GiB",
        )
    if list(Path("/dev").glob("nvidia[0-9]*")):
        return Finding(
            "fail",
            name,
            f"PyTorch {torch.__version__} does not see the GPU that this machine has",
            "install the build with CUDA, and a driver that is not older than it",
        )
    return Finding("pass", name, f"PyTorch {torch.__version__}, no GPU: training runs on the CPU")


def _shared_memory() -> Finding:
    name = "shared memory"
    if not _SHARED_MEMORY.is_dir():
        return Finding("fail", name, f"{_SHARED_MEMORY} does not exist", "mount a tmpfs there")
    size = shutil.disk_usage(_SHARED_MEMORY)
    said = f"{size.free / 2**20:,.0f} of {size.total / 2**20:,.0f} MiB free"
    if size.free < _ENOUGH_SHARED_MEMORY:
        return Finding(
            "warn",
            name,
            said,
            "PyTorch's data workers need more: shared_memory in the cluster file, or `docker run --shm-size=1g`",
        )
    return Finding("pass", name, said)


def _store(url: str) -> Finding:
    from troika.releases.storage import open_storage  # noqa: PLC0415 - so with all below: each check, its imports

    name, path = "model store", f".incoming/doctor-{uuid.uuid4().hex}"
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        storage = open_storage(url)
        try:
            storage.create(path, b"1")
            refused = not storage.create(path, b"2")
            with storage.open(path) as file:
                whole = file.read() == b"1"
        finally:
            storage.remove(path)
    if not refused or not whole:
        return Finding(
            "fail", name, f"{url} lets a second writer write over the first", "use a store that keeps what it has"
        )
    if any("conditional" in str(complaint.message) for complaint in complaints):
        return Finding("warn", name, f"{url} can be written, but not conditionally", "see docs/decisions/store.md")
    return Finding("pass", name, f"{url} can be read and written, each file once")


def _git(remote: str, branch: str) -> Finding:
    from troika.releases.git import Repository  # noqa: PLC0415

    with Repository.of(remote, branch) as repository:
        head = repository.pull()
        repository.rehearse_push(repository.commit(head, "doctor", "doctor\n", "Never pushed"))
        return Finding(
            "pass", "release repository", f"{repository.shown}, {branch} at {head[:12]}, may be pushed to"
        )


def _dvc(folder: Path) -> Finding:
    from dvc.config import NoRemoteError  # noqa: PLC0415
    from dvc.repo import Repo  # noqa: PLC0415

    name = "data remote"
    with Repo(str(folder)) as repo:
        try:
            remote = repo.cloud.get_remote()
        except NoRemoteError:
            return Finding(
                "warn", name, "DVC has no remote: data stays on this machine", "`dvc remote add -d NAME URL`"
            )
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"doctor")
            file.flush()
            path = remote.fs.join(remote.path, f"doctor-{uuid.uuid4().hex}")
            remote.fs.makedirs(remote.path, exist_ok=True)
            remote.fs.put_file(file.name, path)
            remote.fs.remove(path)
        return Finding("pass", name, f"DVC remote {remote.name} can be written")


def _triton(address: str) -> Finding:
    import requests  # noqa: PLC0415

    from troika.serving.triton_version import complaint  # noqa: PLC0415

    name, base = "Triton", f"http://{check_host_port(address, '--triton')}/v2"
    session = _session(base)
    try:
        answer = session.get(base, timeout=_SECONDS)
        answer.raise_for_status()
        found = answer.json()
        ready = session.get(f"{base}/health/ready", timeout=_SECONDS).ok
        closed = session.post(f"{base}/repository/index", timeout=_SECONDS).status_code != requests.codes.ok
    except (requests.RequestException, ValueError) as error:
        return Finding(
            "fail",
            name,
            f"{address} does not answer as Triton does ({type(error).__name__})",
            "is this its HTTP port?",
        )
    said = f"version {found.get('version', 'unknown')}"
    if not ready:
        return Finding("fail", name, f"{said}, not ready", "its log says why")
    if not closed:
        return Finding(
            "warn", name, f"{said}, its model control is open to everybody",
            "use Dockerfile.serve, or --http-restricted-api and --grpc-restricted-protocol",
        )  # fmt: skip
    if wrong := complaint(str(found.get("version", "unknown"))):
        return Finding("warn", name, wrong, "take a newer image; let nobody reach this one but by the front")
    return Finding("pass", name, f"{said}, ready, its model control is closed")


def _session(url: str) -> Any:
    """Return a session of requests, which asks no proxy for an address of this machine."""
    import requests  # noqa: PLC0415

    session = requests.Session()
    host = urlsplit(url).netloc.rpartition("@")[2]
    session.trust_env = not is_local(host if re.search(r":\d+$", host) else f"{host}:80")
    return session


def _own_triton() -> Finding:
    from troika.serving.triton_process import find_installation  # noqa: PLC0415
    from troika.serving.triton_version import complaint  # noqa: PLC0415

    found = find_installation().version or "unknown"
    said = f"nvidia-pytriton {version('nvidia-pytriton')} is installed here"
    if wrong := complaint(found):
        return Finding("warn", "Triton", f"{said}: {wrong}", "`troika serve --front` where others can reach it")
    return Finding("pass", "Triton", said)
