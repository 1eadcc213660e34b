"""The store in a bucket, over HTTP, on a server that speaks S3: the promises of the folder hold here too."""

import io
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import s3fs
from s3_server import s3_server
from tiny_bundle import tiny_bundle

from troika.errors import StoreError
from troika.releases import store as store_module
from troika.releases.bundle import Bundle
from troika.releases.collect import collect
from troika.releases.storage import Bucket, Storage
from troika.releases.store import fetch, publish, read_verdict, verify_entry

Verdict = dict[str, Any]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as server:
        yield server.endpoint


@pytest.fixture
def files(endpoint: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


@pytest.fixture
def store(endpoint: str, request: pytest.FixtureRequest, files: s3fs.S3FileSystem) -> str:
    """A folder of its own in the bucket."""
    name = f"models/{abs(hash(request.node.name))}"
    return f"s3://{name}"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def promote(bundle: Bundle) -> Verdict:
    return {"decision": "promote", "bundle_digest": bundle.digest, "reasons": []}


def entry_of(store: str, bundle: Bundle) -> str:
    return f"{store}/{bundle.model}/{bundle.digest.replace(':', '-')}"


def test_publish_and_fetch_give_the_same_bundle(bundle: Bundle, store: str, tmp_path: Path) -> None:
    published = publish(bundle, promote(bundle), store)
    assert (published.store, published.created) == (store, True)
    fetch(store, "tiny", bundle.digest, tmp_path / "target")
    assert Bundle.open(tmp_path / "target", bundle.digest).manifest == bundle.manifest
    assert not publish(bundle, promote(bundle), store).created
    verify_entry(store, "tiny", bundle.digest)
    assert read_verdict(store, "tiny", bundle.digest, "sha256:" + "0" * 64) is None


def test_of_publishers_at_once_exactly_one_makes_the_entry(bundle: Bundle, store: str, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def work(_: int) -> bool:
        barrier.wait()
        return publish(bundle, promote(bundle), store).created

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))).count(True) == 1
    fetch(store, "tiny", bundle.digest, tmp_path / "target")


def test_a_slower_publisher_does_not_replace_the_manifest(
    bundle: Bundle, store: str, files: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store_module._commit

    def overtaken(ours: Bundle, storage: Storage, entry: str) -> bool:
        monkeypatch.setattr(store_module, "_commit", commit)
        assert publish(bundle, promote(bundle), store).created
        return commit(ours, storage, entry)

    monkeypatch.setattr(store_module, "_commit", overtaken)
    assert not publish(bundle, promote(bundle), store).created


PUBLISH_AND_DIE = """
import os, sys
from pathlib import Path
from troika.releases import storage, store
from troika.releases.bundle import Bundle
put, done = storage.Bucket.put, 0
def dying_put(*arguments):
    global done
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    put(*arguments)
    done += 1
storage.Bucket.put = dying_put
def die(*arguments):
    os.kill(os.getpid(), 9)
store._commit = die
bundle = Bundle.open(Path(sys.argv[1]))
store.publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, sys.argv[2])
"""


@pytest.mark.parametrize("files_done", [1, 4, 1000])
def test_a_crash_leaves_nothing_acceptable_and_a_rerun_completes_it(
    bundle: Bundle, store: str, files: s3fs.S3FileSystem, tmp_path: Path, files_done: int
) -> None:
    arguments = [sys.executable, "-c", PUBLISH_AND_DIE, str(bundle.folder), store, str(files_done)]
    assert subprocess.run(arguments, check=False).returncode == -9
    left = files.find(entry_of(store, bundle))
    assert len(left) == min(files_done, len(bundle.manifest.files))
    with pytest.raises(StoreError, match="not complete"):
        fetch(store, "tiny", bundle.digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()

    # A file that was left is used if it is right, and written again if it is not.
    (first,) = left[:1]
    with files.open(first, "wb") as file:
        file.write(b"spoiled")
    assert publish(bundle, promote(bundle), store).created
    fetch(store, "tiny", bundle.digest, tmp_path / "target")


@pytest.mark.parametrize("damage", ["change", "truncate", "grow", "remove", "add", "manifest"])
def test_a_damaged_entry_is_neither_given_out_nor_repaired(
    bundle: Bundle, store: str, files: s3fs.S3FileSystem, tmp_path: Path, damage: str
) -> None:
    publish(bundle, promote(bundle), store)
    path = f"{entry_of(store, bundle)}/{'manifest.json' if damage == 'manifest' else 'golden.npz'}"
    content = files.cat_file(path)
    if damage == "remove":
        files.rm_file(path)
    elif damage == "add":
        files.pipe_file(f"{path}.bak", b"extra")
    else:
        spoiled = {
            "change": content[:-1] + bytes([content[-1] ^ 1]),
            "truncate": content[:-1],
            "grow": content + b"x",
        }
        files.pipe_file(path, spoiled.get(damage, content.replace(b'"note":""', b'"note":"x"')))
    with pytest.raises(StoreError, match=r"golden\.npz|manifest\.json"):
        fetch(store, "tiny", bundle.digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    with pytest.raises(StoreError, match="not repaired"):
        publish(bundle, promote(bundle), store)


def test_fake_a_store_that_ignores_conditions_is_told_and_still_writes_once(
    bundle: Bundle, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake: writes without the condition, as old S3 servers do."""

    def careless(self: Bucket, path: str, content: bytes) -> bool:
        self._files.pipe_file(f"{self._root}/{path}", content)
        return True

    monkeypatch.setattr(Bucket, "_create", careless)
    with pytest.warns(UserWarning, match="ignores conditional writes"):
        assert publish(bundle, promote(bundle), store).created
    with pytest.warns(UserWarning, match="ignores conditional writes"):
        assert not publish(bundle, promote(bundle), store).created


def test_a_store_that_heeds_them_is_not_warned_of_and_no_probe_stays(
    bundle: Bundle, store: str, files: s3fs.S3FileSystem
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        publish(bundle, promote(bundle), store)
    assert not [name for name in files.find(store) if "probe" in name]


def test_a_bucket_that_is_not_there_and_a_store_that_is_down_are_named(
    bundle: Bundle, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="s3://no-such-bucket"):
        publish(bundle, promote(bundle), "s3://no-such-bucket")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{holder.getsockname()[1]}")
        with pytest.raises(StoreError, match="s3://models"):
            fetch("s3://models", "tiny", bundle.digest, tmp_path / "target")


def test_a_store_that_says_nothing_is_given_up(
    bundle: Bundle, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules["troika.releases.storage"]._OPTIONS["s3"],
        "config_kwargs",
        {"connect_timeout": 1, "read_timeout": 1, "retries": {"total_max_attempts": 1}},
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(StoreError, match="s3://models"):
            fetch("s3://models", "tiny", bundle.digest, tmp_path / "target")
        assert time.monotonic() - started < 60


def test_garbage_is_collected_here_too(
    bundle: Bundle, store: str, files: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    other = tiny_bundle(tmp_path / "other", note="other")
    for one in (bundle, other):
        publish(one, promote(one), store)
    assert collect(store, {("tiny", bundle.digest)}, timedelta(days=1), dry_run=False) == []
    (removed,) = collect(store, {("tiny", bundle.digest)}, timedelta(0), dry_run=False)
    assert removed.path == f"tiny/{other.digest.replace(':', '-')}"
    verify_entry(store, "tiny", bundle.digest)
    assert not [name for name in files.find(store) if other.digest[7:] in name]


def test_reading_goes_through_in_pieces(bundle: Bundle, store: str) -> None:
    """The control of everything above: it was the server that held the files."""
    publish(bundle, promote(bundle), store)
    content = Bucket(store).open(f"tiny/{bundle.digest.replace(':', '-')}/golden.npz")
    buffer = io.BytesIO()
    while piece := content.read(100):
        buffer.write(piece)
    assert buffer.getvalue() == (bundle.folder / "golden.npz").read_bytes()
