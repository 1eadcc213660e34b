"""Garbage collection of a model store. What must be kept is the caller's knowledge: Git, running pods."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from troika.errors import StoreError
from troika.releases.manifest import MANIFEST
from troika.releases.storage import Storage, open_storage


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be."""

    path: str
    """Inside the store."""
    files: int
    newest: datetime
    """When the last of them was written."""


def collect(
    store: str | Path,
    keep: Collection[tuple[str, str]],
    older_than: timedelta,
    *,
    dry_run: bool = True,
    allow_empty: bool = False,
) -> list[Removed]:
    """Remove what is neither kept nor young: entries with all that lies beside them, and what crashes left.

    The manifest of an entry goes first, so that one that is removed half-way does not count any more.

    Args:
        store: as for `publish`.
        keep: (model, digest) of entries that must stay.
        older_than: nothing is removed that was written, even in part, within this time: it may be in the making.
        dry_run: only tell.
        allow_empty: needed where nothing is to be kept, which is more often a mistake.

    Raises:
        StoreError: `keep` is empty, or the store cannot be read or written.
    """
    if not keep and not allow_empty:
        raise StoreError("nothing is to be kept, so everything would be removed; say allow_empty if that is meant")
    if older_than < timedelta(0):
        raise StoreError(f"older_than must not be negative, got {older_than}")
    try:
        return _collect(open_storage(store), keep, older_than, dry_run)
    except OSError as error:
        raise StoreError(f"cannot clean model store {store}: {error.strerror}: {error.filename}") from None


def _collect(
    storage: Storage, keep: Collection[tuple[str, str]], older_than: timedelta, dry_run: bool
) -> list[Removed]:
    kept = {f"{model}/{digest.replace(':', '-')}" for model, digest in keep}
    removed = []
    for path, files in sorted(_groups(storage).items()):
        newest = max(files.values())
        if path in kept or datetime.now(UTC) - newest < older_than:
            continue
        if not dry_run:
            for name in sorted(files, key=lambda name: not name.endswith(f"/{MANIFEST}")):
                storage.remove(name)
        removed.append(Removed(path, len(files), newest))
    return removed


def _groups(storage: Storage) -> dict[str, dict[str, datetime]]:
    """`<model>/sha256-<hex>` -> its files and those beside it; what crashes left is a group by its first part."""
    groups: dict[str, dict[str, datetime]] = {}
    for name, written in storage.names("").items():
        parts = name.split("/")
        if parts[0].startswith("."):
            group = parts[0]
        elif len(parts) > 1 and parts[1].startswith("sha256-"):
            group = f"{parts[0]}/{parts[1].partition('.')[0]}"
        else:
            continue  # not ours
        groups.setdefault(group, {})[name] = written
    return groups
