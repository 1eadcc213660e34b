"""Publish a model: an approved bundle -> the model store. The only writer of the store.

Refuses without a `promote` verdict for exactly this bundle, wherever it is called from.
"""

import json
from dataclasses import asdict
from pathlib import Path

from components.step import run_step
from troika.errors import NotApprovedError
from troika.folders import sha256_file, write_atomic
from troika.releases.bundle import Bundle
from troika.releases.store import publish


def publish_model(bundle: Path, verdict: Path, published: Path, store: str) -> None:
    """Copy a bundle into the store under its digest, marker last.

    Args:
        bundle: folder that export_model wrote.
        verdict: file that evaluate wrote for it.
        published: JSON file to write: model, digest, store, hash of the verdict.
        store: where models live: a folder or a file:// URL.

    Raises:
        NotApprovedError: the verdict is not `promote`, or is another bundle's.
        BundleError: the bundle has been changed since it was judged.
        StoreError: the store cannot be written, or holds something else under this digest.
    """
    try:
        judged = json.loads(verdict.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotApprovedError(f"{verdict} is not a verdict ({error}); run evaluate first") from None
    if not isinstance(judged, dict):
        raise NotApprovedError(f"{verdict} is not a verdict (it holds no JSON object); run evaluate first")
    opened = Bundle.open(bundle)
    entry = publish(opened, judged, store)
    record = {**asdict(entry), "verdict_sha256": sha256_file(verdict)}
    write_atomic(published, json.dumps(record, indent=1) + "\n")
    print(f"{entry.model} {entry.digest} {'copied into' if entry.created else 'is already in'} {entry.store}")


if __name__ == "__main__":
    run_step(publish_model)
