"""Publish a model: an approved bundle -> the model store. The only writer of the store.

Refuses without a `promote` verdict for exactly this bundle, wherever it is called from.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from components.step import run_step
from troika.errors import NotApprovedError, NotPromotedError, ParameterError
from troika.folders import write_atomic
from troika.releases import local
from troika.releases.bundle import Bundle
from troika.releases.store import publish


def publish_model(
    bundle: Path, verdict: Path, reference: Path, published: Path, store: str, unpromoted: str | None = None
) -> None:
    """Copy a bundle into the store under its digest, marker last.

    Args:
        bundle: folder that export_model wrote.
        verdict: file that evaluate wrote for it.
        reference: file that evaluate wrote with it.
        published: JSON file to write: model, digest, store, hash of the verdict; for a model that was not
            published, why (see `unpromoted`).
        store: where models live: a folder, file://, s3:// or gs://.
        unpromoted: what to do where the verdict on this bundle is not `promote`: fail (the default), or record it
            in `published` and publish nothing, as an experiment wants it.

    With TROIKA_SIGNING_KEY, the path of a PEM file, the entry is signed too.

    Raises:
        NotApprovedError: the verdict is not `promote` (unless that is to be recorded), or is another bundle's.
        ParameterError: `unpromoted` is neither fail nor record.
        BundleError: the bundle has been changed since it was judged.
        StoreError: the store cannot be written, or holds something else under this digest.
    """
    if unpromoted not in (None, "fail", "record"):
        raise ParameterError(f"unpromoted must be fail or record, got {unpromoted!r}")
    try:
        judged = verdict.read_bytes()
    except OSError as error:
        raise NotApprovedError(f"{verdict} is not a verdict ({error}); run evaluate first") from None
    try:
        measured_against = reference.read_bytes()
    except OSError as error:
        raise NotApprovedError(
            f"{reference} is not the verdict's reference ({error}); run evaluate first"
        ) from None
    try:
        entry = publish(Bundle.open(bundle), judged, store, local.signing_key(), measured_against)
    except NotPromotedError as error:
        if unpromoted != "record":
            raise
        write_atomic(published, json.dumps({"published": False, "reason": str(error)}, indent=1) + "\n")
        print(f"not published: {error}")
        return
    record = {**asdict(entry), "verdict_sha256": f"sha256:{hashlib.sha256(judged).hexdigest()}"}
    write_atomic(published, json.dumps(record, indent=1) + "\n")
    print(f"{entry.model} {entry.digest} {'copied into' if entry.created else 'is already in'} {entry.store}")


if __name__ == "__main__":
    run_step(publish_model)
