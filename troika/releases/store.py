"""The model store, content-addressed, each entry written once:

    <store>/<model>/sha256-<hex>/...                      the files of a bundle, manifest.json last
    <store>/<model>/sha256-<hex>.verdicts/<sha256>.json   verdicts on it
    <store>/<model>/sha256-<hex>.references/<sha256>.npz  what they were measured against
    <store>/<model>/sha256-<hex>.signature.json           if it was signed, see signing.py

The manifest comes last and by an exclusive operation, so an entry without one does not count and a crash leaves
nothing that a server would accept. Does not decide what may be published: the verdict does.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from troika.errors import BundleError, NotApprovedError, NotPromotedError, StoreError
from troika.folders import replace_folder
from troika.releases.bundle import Bundle, check_names
from troika.releases.manifest import (
    DIGEST,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL_NAME,
    FileEntry,
    Manifest,
    digest_of,
    parse_manifest,
)
from troika.releases.signing import SIGNATURE, check_signature, sign
from troika.releases.storage import Folder, Storage, open_storage

MAX_BUNDLE_BYTES = 8 * 2**30
_CHUNK = 2**20
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE_BYTES = 16 * 2**20
_MAX_REFERENCE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class PublishedModel:
    """A complete entry of a store."""

    model: str
    digest: str
    store: str
    """The store's URL, without the entry: what `fetch` takes."""
    created: bool
    """False if the entry was there already."""
    dataset: str = ""
    """Content hash of the dataset that the model was trained on; empty if its lineage names none."""
    dataset_source: str = ""
    """Where that dataset came from, the DVC revision included."""


def publish(
    bundle: Bundle,
    verdict: Mapping[str, Any] | BaseModel | bytes | None,
    store: str | Path,
    signing_key: Path | None = None,
    reference: bytes | None = None,
) -> PublishedModel:
    """Copy an approved bundle into the store. Repeating it, or two at once, makes the same single entry.

    Args:
        bundle: its files are checked again while they are copied.
        verdict: `decision` must be `promote`, `bundle_digest` that of `bundle`; `reasons` explain the rest. Kept
            beside the entry; as bytes, exactly as they are.
        store: a path, `file://`, `s3://` or `gs://`.
        signing_key: PEM file of an elliptic-curve key to sign with, see signing.py.
        reference: what the verdict was measured against, whose sha256 it names as `reference_sha256`. Kept, so
            that the live model can be measured against the same.

    Raises:
        NotApprovedError: there is no promote verdict for exactly this bundle; gives the verdict's reasons.
        StoreError: the store cannot be written, or holds a damaged entry, which is not repaired.
        BundleError: a file of the bundle was changed after it was opened.
    """
    record = _check_approved(bundle, verdict)
    sha256 = hashlib.sha256(reference or b"").hexdigest()
    if reference is not None and json.loads(record).get("reference_sha256") != f"sha256:{sha256}":
        raise NotApprovedError(
            f"the verdict on {bundle.digest} was not measured against this reference; give those of one evaluation"
        )
    storage, entry = open_storage(store), _entry(bundle.model, bundle.digest)
    try:
        complete = MANIFEST in storage.names(entry)
        if not complete:
            _write_files(bundle, storage, entry)
        storage.create(f"{entry}.verdicts/{hashlib.sha256(record).hexdigest()}.json", record)
        if reference is not None:
            storage.create(f"{entry}.references/{sha256}.npz", reference)
        if signing_key is not None:
            storage.create(f"{entry}{SIGNATURE}", sign(bundle.manifest_bytes, signing_key))
        created = not complete and _commit(bundle, storage, entry)
    except OSError as error:
        where = error.filename2 or error.filename or storage.url
        root = storage.root if isinstance(storage, Folder) else storage.url
        raise StoreError(
            f"cannot write model store {root}: {error.strerror or error}: {where}; "
            "give a store that you may write (--store), on a file system that has hard links"
        ) from None
    if not created:
        try:
            verify_entry(storage, bundle.model, bundle.digest)
        except StoreError as error:
            raise StoreError(
                f"{error}; it is not repaired: find out who changed it, remove it by hand and publish again"
            ) from None
    return _published(bundle.manifest, bundle.digest, storage.url, created)


def find_published(store: str | Path, model: str, digest: str) -> PublishedModel:
    """An entry of a store, by what its manifest says.

    Raises:
        StoreError: no such entry, or its manifest is damaged.
    """
    storage, entry = open_storage(store), _entry(model, digest)
    try:
        manifest, _ = _read_manifest(storage, entry, model, digest)
    except BundleError as error:
        raise StoreError(f"model store entry {storage.url}/{entry} must not be used: {error}") from None
    except OSError as error:
        raise StoreError(f"cannot read {storage.url}/{entry}: {error.strerror or error}") from None
    return _published(manifest, digest, storage.url, created=False)


def _published(manifest: Manifest, digest: str, url: str, created: bool) -> PublishedModel:
    dataset = manifest.lineage.get("dataset")
    if not isinstance(dataset, dict):
        dataset = {}
    return PublishedModel(
        manifest.model,
        digest,
        url,
        created,
        dataset=str(dataset.get("content_hash", "")),
        dataset_source=" ".join(str(dataset.get("source", "")).split()),
    )


def fetch(
    store: str | Path,
    model: str,
    digest: str,
    target: Path,
    max_bytes: int = MAX_BUNDLE_BYTES,
    public_key: Path | None = None,
) -> Bundle:
    """Copy a bundle out of the store into the folder `target`, whole or not at all; every byte is checked.

    Args:
        store: as for `publish`.
        model: the model's name.
        digest: `sha256:<hex>`, as published.
        target: replaced if it exists.
        max_bytes: upper limit of the bundle's size, checked before anything is copied and while it is.
        public_key: PEM file; with it only what its owner has signed is accepted.

    Raises:
        StoreError: no such entry, or it is damaged, holds a foreign file or a link, is too large, or is not
            signed as asked for; names the file.
    """
    storage, entry = open_storage(store), _entry(model, digest)
    try:
        manifest, manifest_bytes = _read_manifest(storage, entry, model, digest)
        total = sum(file.size for file in manifest.files.values())
        if total > max_bytes:
            raise BundleError(f"it has {total} bytes, more than the limit of {max_bytes}")
        if public_key is not None:
            check_signature(manifest_bytes, _read_note(storage, f"{entry}{SIGNATURE}"), public_key)
        with replace_folder(target) as new:
            for name, expected in manifest.files.items():
                _copy_checked(storage.open(f"{entry}/{name}"), name, expected, new / name)
            (new / MANIFEST).write_bytes(manifest_bytes)
    except BundleError as error:
        raise StoreError(f"model store entry {storage.url}/{entry} must not be used: {error}") from None
    except OSError as error:
        raise StoreError(
            f"cannot copy {storage.url}/{entry} to {target}: {error.strerror or error}: {error.filename}"
        ) from None
    return Bundle(target, manifest, manifest_bytes)


def read_verdict(store: str | Path, model: str, digest: str, verdict_sha256: str) -> bytes | None:
    """The verdict with this hash on a bundle, as `publish` was given it; None if the store has none.

    Raises:
        StoreError: the store cannot be read, or what is there has another hash.
    """
    return _read_beside(store, model, digest, "verdicts/{}.json", verdict_sha256, _MAX_NOTE_BYTES)


def read_reference(store: str | Path, model: str, digest: str, reference_sha256: str) -> bytes | None:
    """What a verdict on a bundle was measured against, as `publish` was given it; None if the store has none.

    Raises:
        StoreError: the store cannot be read, or what is there has another hash.
    """
    return _read_beside(store, model, digest, "references/{}.npz", reference_sha256, _MAX_REFERENCE_BYTES)


def read_bundle_file(store: str | Path, model: str, digest: str, name: str) -> bytes:
    """One file of a bundle, checked against its manifest, and that against the digest.

    Raises:
        StoreError: no such entry or file, or one of them is damaged.
    """
    storage, entry = open_storage(store), _entry(model, digest)
    try:
        manifest, _ = _read_manifest(storage, entry, model, digest)
        if name not in manifest.files:
            raise StoreError(f"model store entry {storage.url}/{entry} has no file {name}")
        with tempfile.TemporaryDirectory(prefix="troika-file-") as scratch:
            copy = Path(scratch) / "file"
            _copy_checked(storage.open(f"{entry}/{name}"), name, manifest.files[name], copy)
            return copy.read_bytes()
    except BundleError as error:
        raise StoreError(f"model store entry {storage.url}/{entry} must not be used: {error}") from None
    except OSError as error:
        raise StoreError(f"cannot read {storage.url}/{entry}: {error.strerror or error}") from None


def verify_entry(store: str | Path | Storage, model: str, digest: str, public_key: Path | None = None) -> Manifest:
    """Check every byte of an entry where it lies.

    Raises:
        StoreError: as for `fetch`.
    """
    storage = store if isinstance(store, Storage) else open_storage(store)
    entry = _entry(model, digest)
    try:
        manifest, manifest_bytes = _read_manifest(storage, entry, model, digest)
        if public_key is not None:
            check_signature(manifest_bytes, _read_note(storage, f"{entry}{SIGNATURE}"), public_key)
        for name, expected in manifest.files.items():
            _copy_checked(storage.open(f"{entry}/{name}"), name, expected, None)
    except BundleError as error:
        raise StoreError(f"model store entry {storage.url}/{entry} must not be used: {error}") from None
    except OSError as error:
        raise StoreError(f"cannot read {storage.url}/{entry}: {error.strerror or error}") from None
    return manifest


def _read_beside(
    store: str | Path, model: str, digest: str, where: str, sha256: str, max_bytes: int
) -> bytes | None:
    """A file beside an entry that is named by its own hash; None if there is none."""
    wanted = sha256.removeprefix("sha256:")
    if not _HASH.fullmatch(wanted):
        raise StoreError(f"hash {sha256!r} is not usable: expected sha256: and 64 hexadecimal digits")
    path = f"{_entry(model, digest)}.{where.format(wanted)}"
    try:
        content = _read_note(open_storage(store), path, max_bytes)
    except OSError as error:
        raise StoreError(f"cannot read {path} of model store {store}: {error.strerror or error}") from None
    if content is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise StoreError(f"model store {store}: {where.partition('/')[0]} {sha256} of {digest} was changed")
    return content


def _entry(model: str, digest: str) -> str:
    # Both come from outside (a Git file, a command line) and become a path.
    if not MODEL_NAME.fullmatch(model):
        raise StoreError(f"model name {model!r} is not usable: lower-case letters, digits, - and _, at most 63")
    if not DIGEST.fullmatch(digest):
        raise StoreError(f"digest {digest!r} is not usable: expected sha256: and 64 hexadecimal digits")
    return f"{model}/{digest.replace(':', '-')}"


def _check_approved(bundle: Bundle, verdict: Mapping[str, Any] | BaseModel | bytes | None) -> bytes:
    """The verdict's bytes, or NotApprovedError."""
    if verdict is None:
        raise NotApprovedError(f"{bundle.model} {bundle.digest} has no verdict; run evaluate first")
    if isinstance(verdict, bytes):
        record = verdict
    else:
        plain = verdict.model_dump(mode="json") if isinstance(verdict, BaseModel) else dict(verdict)
        record = (json.dumps(plain, indent=1) + "\n").encode()
    try:
        content = json.loads(record)
    except ValueError as error:
        raise NotApprovedError(
            f"what is given for {bundle.model} is not a verdict ({error}); run evaluate first"
        ) from None
    if not isinstance(content, dict):
        raise NotApprovedError(
            f"what is given for {bundle.model} is not a verdict (it holds no JSON object); run evaluate first"
        )
    decision, judged = content.get("decision"), content.get("bundle_digest")
    if judged != bundle.digest:
        raise NotApprovedError(
            f"the verdict is about {judged}, not about {bundle.digest}; run evaluate on this bundle"
        )
    if decision != "promote":
        reasons = (
            "; ".join(str(reason) for reason in content.get("reasons") or ()) or "the verdict gives no reason"
        )
        raise NotPromotedError(
            f"{bundle.model} {bundle.digest}: the verdict is {decision!r}, not 'promote': {reasons}"
        )
    return record


def _write_files(bundle: Bundle, storage: Storage, entry: str) -> None:
    """Bring every file but the manifest into place; those left by a crash are kept if right."""
    present = set(storage.names(entry))
    try:
        check_names(Path(entry), {*bundle.manifest.files, *present, MANIFEST}, bundle.manifest)
    except BundleError as error:
        raise StoreError(f"model store {storage.url} holds what it should not: {error}") from None
    with storage.scratch() as scratch:
        for name, expected in bundle.manifest.files.items():
            if name in present and _is_right(storage, f"{entry}/{name}", expected):
                continue
            source = Folder(bundle.folder).open(name)
            _copy_checked(source, name, expected, scratch / "file")
            storage.put(scratch / "file", f"{entry}/{name}")


def _is_right(storage: Storage, path: str, expected: FileEntry) -> bool:
    try:
        _copy_checked(storage.open(path), path, expected, None)
    except BundleError:
        return False
    return True


def _commit(bundle: Bundle, storage: Storage, entry: str) -> bool:
    """Put the manifest in place, which makes the entry count. False if another publisher was faster."""
    return storage.create(f"{entry}/{MANIFEST}", bundle.manifest_bytes)


def _read_manifest(storage: Storage, entry: str, model: str, digest: str) -> tuple[Manifest, bytes]:
    names = set(storage.names(entry))
    if MANIFEST not in names:
        raise StoreError(f"{storage.url}/{entry} is not in the model store or not complete; publish {model} first")
    with storage.open(f"{entry}/{MANIFEST}") as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    if digest_of(content) != digest:
        raise BundleError(f"{MANIFEST} was changed: its digest is not {digest}")
    manifest = parse_manifest(content, entry)
    if manifest.model != model:
        raise BundleError(f"{MANIFEST} is of model {manifest.model}, expected {model}")
    check_names(Path(entry), names, manifest)
    return manifest, content


def _read_note(storage: Storage, path: str, max_bytes: int = _MAX_NOTE_BYTES) -> bytes | None:
    try:
        with storage.open(path) as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    if len(content) > max_bytes:
        raise StoreError(f"{storage.url}/{path} is larger than {max_bytes} bytes")
    return content


def _copy_checked(source: BinaryIO, name: str, expected: FileEntry, target: Path | None) -> None:
    """Copy one file, or only read it, and no more than it should hold; compare its sha256."""
    sha256, left = hashlib.sha256(), expected.size + 1
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with source as reader, target.open("wb") if target else nullcontext() as writer:
        while left > 0 and (chunk := reader.read(min(_CHUNK, left))):
            sha256.update(chunk)
            left -= len(chunk)
            if writer:
                writer.write(chunk)
        if writer:
            writer.flush()
            os.fsync(writer.fileno())
    if left != 1 or sha256.hexdigest() != expected.sha256:
        raise BundleError(f"{name} was changed: its sha256 is not {expected.sha256}")
