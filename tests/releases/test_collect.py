"""Only what nobody needs and nobody is making is removed."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from troika.errors import StoreError
from troika.releases import storage
from troika.releases.bundle import Bundle
from troika.releases.collect import collect
from troika.releases.store import fetch, publish, verify_entry

DAY = timedelta(days=1)


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    made = [tiny_bundle(tmp_path / f"{number}", note=str(number)) for number in range(3)]
    for bundle in made:
        publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, tmp_path / "store")
    return made


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def path_of(bundle: Bundle) -> str:
    return f"tiny/{bundle.digest.replace(':', '-')}"


def test_what_is_kept_or_young_stays_and_a_dry_run_removes_nothing(bundles: list[Bundle], tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept, young, old = bundles
    age(store, days=10)
    os.utime(store / path_of(young) / "golden.npz")
    keep = {("tiny", kept.digest)}
    found = [removed.path for removed in collect(store, keep, DAY)]
    assert found == [path_of(old)]
    for bundle in bundles:
        verify_entry(store, "tiny", bundle.digest)
    assert [removed.path for removed in collect(store, keep, DAY, dry_run=False)] == found
    for bundle in (kept, young):
        verify_entry(store, "tiny", bundle.digest)
    assert not [path for path in store.rglob("*") if old.digest[7:] in str(path)]
    with pytest.raises(StoreError, match="not in the model store"):
        fetch(store, "tiny", old.digest, tmp_path / "target")


def test_what_a_crash_left_goes_too(bundles: list[Bundle], tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / ".incoming-x").mkdir()
    (store / ".incoming-x" / "file").write_text("half")
    (store / ".incoming-y").write_text("half")
    (store / path_of(bundles[0]) / "manifest.json").unlink()  # an entry that was never finished
    (store / "README.txt").write_text("not ours")
    keep = {("tiny", bundle.digest) for bundle in bundles[1:]}
    assert collect(store, keep, DAY, dry_run=False) == []  # It may be in the making.
    age(store, days=2)
    found = {removed.path for removed in collect(store, keep, DAY, dry_run=False)}
    assert found == {".incoming-x", ".incoming-y", path_of(bundles[0])}
    assert sorted(path.name for path in store.iterdir()) == ["README.txt", "tiny"]


def test_a_collection_that_dies_leaves_nothing_that_looks_complete(
    bundles: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, removed = tmp_path / "store", []
    really = storage.Folder.remove

    def die_after_two(self: storage.Folder, path: str) -> None:
        if len(removed) == 2:
            raise OSError(5, "Input/output error", path)
        removed.append(path)
        really(self, path)

    monkeypatch.setattr(storage.Folder, "remove", die_after_two)
    with pytest.raises(StoreError, match="cannot clean model store"):
        collect(store, {("tiny", bundles[0].digest)}, timedelta(0), dry_run=False)
    assert removed[0].endswith("manifest.json")
    monkeypatch.undo()
    complete = [b for b in bundles if (store / path_of(b) / "manifest.json").exists()]
    for bundle in complete:
        verify_entry(store, "tiny", bundle.digest)
    assert len(complete) == 2


def test_nothing_to_keep_is_taken_for_a_mistake(bundles: list[Bundle], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing is to be kept"):
        collect(tmp_path / "store", set(), DAY, dry_run=False)
    with pytest.raises(StoreError, match="must not be negative"):
        collect(tmp_path / "store", set(), -DAY, allow_empty=True)
    assert len(collect(tmp_path / "store", set(), timedelta(0), dry_run=False, allow_empty=True)) == 3
    assert list((tmp_path / "store").iterdir()) == []
