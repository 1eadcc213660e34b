"""The store takes approved bundles only, each once and whole, and gives out nothing that differs."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tiny_bundle import tiny_bundle

from troika.errors import BundleError, NotApprovedError, StoreError
from troika.releases import store as store_module
from troika.releases.bundle import Bundle, list_files
from troika.releases.storage import Folder, Storage, open_storage
from troika.releases.store import PublishedModel, fetch, publish, read_verdict


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def promote(bundle: Bundle) -> dict[str, Any]:
    return {"decision": "promote", "bundle_digest": bundle.digest, "reasons": []}


def entry_of(store: Path, bundle: Bundle) -> Path:
    return store / bundle.model / bundle.digest.replace(":", "-")


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in list_files(folder)
    }


class Verdict(BaseModel):
    decision: str
    bundle_digest: str


def test_publish_and_fetch_give_the_same_bundle(bundle: Bundle, tmp_path: Path) -> None:
    published = publish(bundle, promote(bundle), tmp_path / "store")
    assert published == PublishedModel("tiny", bundle.digest, (tmp_path / "store").as_uri(), created=True)
    got = fetch(published.store, "tiny", bundle.digest, tmp_path / "target")
    assert Bundle.open(tmp_path / "target", bundle.digest).manifest == got.manifest == bundle.manifest
    entry = entry_of(tmp_path / "store", bundle)
    assert {path.name for path in entry.parent.iterdir()} == {entry.name, f"{entry.name}.verdicts"}
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["tiny"]


def test_the_verdict_is_kept_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    text = json.dumps(promote(bundle)).encode() + b"  "
    sha256 = f"sha256:{hashlib.sha256(text).hexdigest()}"
    store = publish(bundle, text, tmp_path / "store").store
    assert read_verdict(store, "tiny", bundle.digest, sha256) == text
    assert read_verdict(store, "tiny", bundle.digest, "sha256:" + "0" * 64) is None
    (path,) = (tmp_path / "store").glob("tiny/*.verdicts/*.json")
    path.unlink()
    path.write_bytes(text.replace(b"promote", b"PROMOTE"))
    with pytest.raises(StoreError, match="was changed"):
        read_verdict(store, "tiny", bundle.digest, sha256)


def test_bundle_and_store_may_be_relative(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Bundle.open(Path("bundle"))
    assert publish(relative, promote(bundle), "store").store == (tmp_path / "store").as_uri()
    fetch("store", "tiny", bundle.digest, Path("target"))
    Bundle.open(tmp_path / "target", bundle.digest)


def test_publishing_again_changes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    verdict = Verdict(decision="promote", bundle_digest=bundle.digest)
    publish(bundle, verdict, tmp_path / "store")
    before = snapshot(entry_of(tmp_path / "store", bundle))
    assert not publish(bundle, verdict, f"file://{tmp_path / 'store'}").created
    assert snapshot(entry_of(tmp_path / "store", bundle)) == before


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (None, "no verdict"),
        ({}, "about None"),
        ({"decision": "promote"}, "about None"),
        ({"decision": "promote", "bundle_digest": "sha256:" + "0" * 64}, "about sha256:000"),
        ({"decision": "reject", "reasons": ["precision 0.2 < 0.5", "late"]}, "precision 0.2 < 0.5; late"),
        ({"decision": "inconclusive", "reasons": ["too few samples"]}, "too few samples"),
        ({"decision": "PROMOTE"}, "'PROMOTE'"),
    ],
)
def test_nothing_is_published_without_a_verdict_for_this_bundle(
    bundle: Bundle, tmp_path: Path, verdict: dict[str, Any] | None, words: str
) -> None:
    if verdict and verdict.get("decision") != "promote":
        verdict = {"bundle_digest": bundle.digest, **verdict}
    with pytest.raises(NotApprovedError, match=words):
        publish(bundle, verdict, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_bundle_that_changed_since_it_was_opened_is_not_published(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "golden.npz").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"golden\.npz was changed"):
        publish(bundle, promote(bundle), tmp_path / "store")
    with pytest.raises(StoreError, match="not complete"):
        fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target")


PUBLISH_SLOWLY = """
import sys, time
from pathlib import Path
from troika.releases import store
from troika.releases.bundle import Bundle
copy, done = store._copy_checked, 0
def slow_copy(*arguments):
    global done
    if done == int(sys.argv[3]):
        print("here", flush=True)
        time.sleep(60)
    copy(*arguments)
    done += 1
store._copy_checked = slow_copy
commit = store._commit
def slow_commit(*arguments):
    print("here", flush=True)
    time.sleep(60)
if sys.argv[3] == "all":
    store._copy_checked, store._commit = copy, slow_commit
bundle = Bundle.open(Path(sys.argv[1]))
store.publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, sys.argv[2])
"""


@pytest.mark.parametrize("files_done", ["0", "3", "all"])
def test_a_kill_in_the_middle_leaves_nothing_acceptable_and_a_rerun_completes_it(
    bundle: Bundle, tmp_path: Path, files_done: str
) -> None:
    command = [sys.executable, "-c", PUBLISH_SLOWLY, str(bundle.folder), str(tmp_path / "store"), files_done]
    if files_done == "all":
        command[2] = PUBLISH_SLOWLY.replace("int(sys.argv[3])", "-1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    entry = entry_of(tmp_path / "store", bundle)
    assert entry.is_dir() == (files_done != "0")
    if files_done == "all":
        assert set(list_files(entry)) == set(bundle.manifest.files)
    with pytest.raises(StoreError, match="not complete"):
        fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target")

    assert publish(bundle, promote(bundle), tmp_path / "store").created
    assert Bundle.open(entry, bundle.digest)


@pytest.mark.parametrize("round_", range(5))
def test_two_publishers_at_once_both_succeed_with_one_entry(bundle: Bundle, tmp_path: Path, round_: int) -> None:
    barrier = threading.Barrier(4)

    def work() -> bool:
        barrier.wait()
        return publish(bundle, promote(bundle), tmp_path / "store").created

    with ThreadPoolExecutor(4) as pool:
        created = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert created.count(True) == 1
    Bundle.open(entry_of(tmp_path / "store", bundle), bundle.digest)
    assert len(list((tmp_path / "store" / "tiny").iterdir())) == 2
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_slower_publisher_does_not_replace_the_manifest(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store_module._commit

    def overtaken(ours: Bundle, storage: Storage, entry: str) -> bool:
        monkeypatch.setattr(store_module, "_commit", commit)
        assert publish(bundle, promote(bundle), tmp_path / "store").created
        return commit(ours, storage, entry)

    monkeypatch.setattr(store_module, "_commit", overtaken)
    assert not publish(bundle, promote(bundle), tmp_path / "store").created


def test_a_store_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for store in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/troika-store")):
        with pytest.raises(StoreError, match=f"cannot write model store {store}"):
            publish(bundle, promote(bundle), store)


@pytest.mark.parametrize(
    "url", ["s3://", r"s3://\*\*\*@bucket", "gs:///models", "http://host/x", "file://host/models"]
)
def test_a_store_that_cannot_be_is_refused_by_name(bundle: Bundle, url: str) -> None:
    with pytest.raises(StoreError, match=url):
        publish(bundle, promote(bundle), url.replace(r"\*\*\*", "key:secret"))


def test_paths_and_file_urls_mean_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    for store in (folder.as_uri(), folder, str(folder)):
        storage = open_storage(store)
        assert isinstance(storage, Folder)
        assert storage.root == folder
    relative = open_storage("relative")
    assert isinstance(relative, Folder)
    assert relative.root == Path.cwd() / "relative"


def change_file(entry: Path, bundle: Bundle) -> None:
    path = entry / "golden.npz"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def truncate_file(entry: Path, bundle: Bundle) -> None:
    (entry / "golden.npz").unlink()
    (entry / "golden.npz").write_bytes(b"")


def grow_file(entry: Path, bundle: Bundle) -> None:
    with (entry / "golden.npz").open("ab") as file:
        file.write(b"more")


def remove_file(entry: Path, bundle: Bundle) -> None:
    (entry / "golden.npz").unlink()


def add_file(entry: Path, bundle: Bundle) -> None:
    (entry / "golden.npz.bak").write_text("extra")


def link_file(entry: Path, bundle: Bundle) -> None:
    (entry / "golden.npz").unlink()
    (entry / "golden.npz").symlink_to(bundle.folder / "golden.npz")


def link_folder(entry: Path, bundle: Bundle) -> None:
    shutil.rmtree(entry / "model_repository")
    (entry / "model_repository").symlink_to(bundle.folder / "model_repository")


def change_manifest(entry: Path, bundle: Bundle) -> None:
    text = (entry / "manifest.json").read_text()
    (entry / "manifest.json").unlink()
    (entry / "manifest.json").write_text(text.replace('"note":""', '"note":"x"'))


def link_manifest(entry: Path, bundle: Bundle) -> None:
    (entry / "manifest.json").unlink()
    (entry / "manifest.json").symlink_to(bundle.folder / "manifest.json")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (change_file, "golden.npz"),
        (truncate_file, "golden.npz"),
        (grow_file, "golden.npz"),
        (remove_file, "golden.npz"),
        (add_file, "golden.npz.bak"),
        (link_file, "golden.npz"),
        (link_folder, "model_repository"),
        (change_manifest, "manifest.json"),
        (link_manifest, "manifest.json"),
    ],
)
def test_a_damaged_entry_is_neither_given_out_nor_repaired(
    bundle: Bundle, tmp_path: Path, damage: Callable[[Path, Bundle], None], name: str
) -> None:
    publish(bundle, promote(bundle), tmp_path / "store")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("kept")
    damage(entry_of(tmp_path / "store", bundle), bundle)
    with pytest.raises(StoreError, match=name):
        fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "store", "target"]
    assert (tmp_path / "target" / "old").read_text() == "kept"
    with pytest.raises(StoreError, match=f"{name}.*|not repaired"):
        publish(bundle, promote(bundle), tmp_path / "store")


@pytest.mark.parametrize(
    ("model", "digest"),
    [("../tiny", None), ("tiny/..", None), ("tiny", "sha256:../../x"), ("tiny", "latest"), ("", None)],
)
def test_names_that_could_leave_the_store_are_refused(
    bundle: Bundle, tmp_path: Path, model: str, digest: str | None
) -> None:
    with pytest.raises(StoreError, match="not usable"):
        fetch(tmp_path, model, digest or bundle.digest, tmp_path / "target")


def test_a_bundle_over_the_limit_is_not_copied(bundle: Bundle, tmp_path: Path) -> None:
    publish(bundle, promote(bundle), tmp_path / "store")
    size = sum(file.size for file in bundle.manifest.files.values())
    with pytest.raises(StoreError, match=f"{size} bytes, more than the limit of {size - 1}"):
        fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target", max_bytes=size - 1)
    fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target", max_bytes=size)


def test_another_models_entry_under_this_name_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    publish(bundle, promote(bundle), tmp_path / "store")
    shutil.move(tmp_path / "store" / "tiny", tmp_path / "store" / "other")
    with pytest.raises(StoreError, match="is of model tiny, expected other"):
        fetch(tmp_path / "store", "other", bundle.digest, tmp_path / "target")


def test_published_files_are_read_only_and_old_ones_are_not_touched_by_a_rerun(
    bundle: Bundle, tmp_path: Path
) -> None:
    publish(bundle, promote(bundle), tmp_path / "store")
    entry = entry_of(tmp_path / "store", bundle)
    assert all((entry / name).stat().st_mode & 0o222 == 0 for name in list_files(entry))
    (entry / "manifest.json").unlink()
    before = snapshot(entry)
    time.sleep(0.01)
    assert publish(bundle, promote(bundle), tmp_path / "store").created
    assert {name: value for name, value in snapshot(entry).items() if name != "manifest.json"} == before
