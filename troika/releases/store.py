"""The model store: `<store>/<model>/sha256-<hex>/`, content-addressed, each entry written once.

The manifest comes last and by an exclusive operation, so an entry without one does not count and a crash
leaves nothing that a server would accept. Does not decide what may be published: the verdict does.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from troika.errors import BundleError, NotApprovedError, StoreError
from troika.folders import replace_folder, sha256_file
from troika.releases.bundle import Bundle, check_names, list_files
from troika.releases.manifest import (
    DIGEST,
    MANIFEST,
    MODEL_NAME,
    FileEntry,
    digest_of,
    parse_manifest,
    read_manifest,
)

MAX_BUNDLE_BYTES = 8 * 2**30
_CHUNK = 2**20


@dataclass(frozen=True)
class PublishedModel:
    """A complete entry of a store."""

    model: str
    digest: str
    store: str
    """The store's URL, without the entry: what `fetch` takes."""
    created: bool
    """False if the entry was there already."""


def publish(bundle: Bundle, verdict: Mapping[str, Any] | BaseModel | None, store: str | Path) -> PublishedModel:
    """Copy an approved bundle into the store. Repeating it, or two at once, makes the same single entry.

    Args:
        bundle: its files are checked again while they are copied.
        verdict: `decision` must be `promote`, `bundle_digest` that of `bundle`; `reasons` explain the rest.
        store: a path or a `file://` URL.

    Raises:
        NotApprovedError: there is no promote verdict for exactly this bundle; gives the verdict's reasons.
        StoreError: the store cannot be written, or holds a damaged entry, which is not repaired.
        BundleError: a file of the bundle was changed after it was opened.
    """
    _check_approved(bundle, verdict)
    root = store_root(store)
    entry = _entry(root, bundle.model, bundle.digest)
    try:
        if not (entry / MANIFEST).is_file():
            _write_entry(bundle, entry)
            created = _commit(bundle, entry)
        else:
            created = False
    except OSError as error:
        where = error.filename2 or error.filename or root
        raise StoreError(
            f"cannot write model store {root}: {error.strerror}: {where}; "
            "give a store that you may write (--store), on a file system that has hard links"
        ) from None
    if not created:
        _verify_entry(entry, bundle.digest)
    return PublishedModel(bundle.model, bundle.digest, root.as_uri(), created)


def fetch(store: str | Path, model: str, digest: str, target: Path, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
    """Copy a bundle out of the store into the folder `target`, whole or not at all; every byte is checked.

    Args:
        store: a path or a `file://` URL.
        model: the model's name.
        digest: `sha256:<hex>`, as published.
        target: replaced if it exists.
        max_bytes: upper limit of the bundle's size, checked before anything is copied and while it is.

    Raises:
        StoreError: no such entry, or it is damaged, holds a foreign file or a link, or is too large;
            names the file.
    """
    entry = _entry(store_root(store), model, digest)
    try:
        if not (entry / MANIFEST).is_file():
            raise StoreError(f"{entry} is not in the model store or not complete; publish {model} first")
        manifest_bytes = read_manifest(entry)
        if digest_of(manifest_bytes) != digest:
            raise BundleError(f"{MANIFEST} was changed: its digest is not {digest}")
        manifest = parse_manifest(manifest_bytes, str(entry))
        if manifest.model != model:
            raise BundleError(f"{MANIFEST} is of model {manifest.model}, expected {model}")
        check_names(entry, set(list_files(entry)), manifest)
        total = sum(file.size for file in manifest.files.values())
        if total > max_bytes:
            raise BundleError(f"it has {total} bytes, more than the limit of {max_bytes}")
        with replace_folder(target) as new:
            for name, expected in manifest.files.items():
                _copy_checked(entry, name, expected, new / name)
            (new / MANIFEST).write_bytes(manifest_bytes)
    except BundleError as error:
        raise StoreError(f"model store entry {entry} must not be used: {error}") from None
    except OSError as error:
        raise StoreError(f"cannot copy {entry} to {target}: {error.strerror}: {error.filename}") from None
    return Bundle(target, manifest, manifest_bytes)


def store_root(store: str | Path) -> Path:
    """The folder that a store's URL or path means.

    Raises:
        StoreError: the URL's scheme is not supported, or it names another host.
    """
    text = str(store)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text):
        return Path(text).expanduser().absolute()
    url = urlsplit(text)
    if url.scheme != "file":
        raise StoreError(f"model store {text}: {url.scheme}:// is not supported yet; give a path or file:///path")
    if url.netloc not in {"", "localhost"} or not url.path:
        raise StoreError(
            f"model store {text} names the host {url.netloc!r}; write file:///path with three slashes"
        )
    return Path(unquote(url.path))


def _entry(root: Path, model: str, digest: str) -> Path:
    # Both come from outside (a Git file, a command line) and become a path.
    if not MODEL_NAME.fullmatch(model):
        raise StoreError(f"model name {model!r} is not usable: lower-case letters, digits, - and _, at most 63")
    if not DIGEST.fullmatch(digest):
        raise StoreError(f"digest {digest!r} is not usable: expected sha256: and 64 hexadecimal digits")
    return root / model / digest.replace(":", "-")


def _check_approved(bundle: Bundle, verdict: Mapping[str, Any] | BaseModel | None) -> None:
    content = verdict.model_dump() if isinstance(verdict, BaseModel) else verdict
    if content is None:
        raise NotApprovedError(f"{bundle.model} {bundle.digest} has no verdict; run evaluate first")
    decision, judged = content.get("decision"), content.get("bundle_digest")
    if judged != bundle.digest:
        raise NotApprovedError(
            f"the verdict is about {judged}, not about {bundle.digest}; run evaluate on this bundle"
        )
    if decision != "promote":
        reasons = (
            "; ".join(str(reason) for reason in content.get("reasons") or ()) or "the verdict gives no reason"
        )
        raise NotApprovedError(
            f"{bundle.model} {bundle.digest}: the verdict is {decision!r}, not 'promote': {reasons}"
        )


def _write_entry(bundle: Bundle, entry: Path) -> None:
    """Bring every file but the manifest into place; those left by a crash are kept if right."""
    entry.mkdir(parents=True, exist_ok=True)
    # Outside the entry, so that a crash leaves no foreign file in it. `.incoming-*` may be removed when idle.
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=entry.parent))
    try:
        for name, expected in bundle.manifest.files.items():
            target = entry / name
            if target.is_symlink() or target.parent.resolve() != entry.resolve() / Path(name).parent:
                raise StoreError(f"model store entry {entry}: {name} is a symbolic link; remove the entry by hand")
            if target.is_file() and sha256_file(target) == f"sha256:{expected.sha256}":
                continue
            copied = incoming / "file"
            _copy_checked(bundle.folder, name, expected, copied)
            copied.chmod(0o444)
            target.parent.mkdir(parents=True, exist_ok=True)
            copied.replace(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    try:
        check_names(entry, {*list_files(entry), MANIFEST}, bundle.manifest)
    except BundleError as error:
        raise StoreError(f"model store entry {entry} holds what it should not: {error}") from None


def _commit(bundle: Bundle, entry: Path) -> bool:
    """Put the manifest in place, which makes the entry count. False if another publisher was faster."""
    handle, temporary = tempfile.mkstemp(prefix=".incoming-", dir=entry.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bundle.manifest_bytes)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o444)
        # Unlike a rename, a link never replaces: of two publishers exactly one gets through.
        (entry / MANIFEST).hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _verify_entry(entry: Path, digest: str) -> None:
    try:
        Bundle.open(entry, digest)
    except BundleError as error:
        raise StoreError(
            f"model store entry {entry} differs from what was published: {error}; it is not repaired: "
            "find out who changed it, remove it by hand and publish again"
        ) from None


def _copy_checked(folder: Path, name: str, expected: FileEntry, target: Path) -> None:
    """Copy one file, reading no more than it should hold and following no link, and compare its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256, left = hashlib.sha256(), expected.size + 1
    source = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(source, "rb") as reader, target.open("wb") as writer:
        while left > 0 and (chunk := reader.read(min(_CHUNK, left))):
            sha256.update(chunk)
            writer.write(chunk)
            left -= len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if left != 1 or sha256.hexdigest() != expected.sha256:
        raise BundleError(f"{folder}: {name} was changed: its sha256 is not {expected.sha256}")
