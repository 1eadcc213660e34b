"""Where a key is configured, only what its owner signed is given out."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from troika.errors import StoreError
from troika.releases.bundle import Bundle
from troika.releases.store import fetch, publish, verify_entry


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True)
    subprocess.run(
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)], check=True, capture_output=True
    )
    return private, public


def published(bundle: Bundle, store: Path, key: Path | None = None) -> None:
    publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, store, key)


def test_what_was_signed_is_given_out_and_what_was_not_is_not(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    _, foreign = make_keys(tmp_path, "theirs")
    signed, plain = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", note="b")
    published(signed, tmp_path / "store", private)
    published(plain, tmp_path / "store")
    assert fetch(tmp_path / "store", "tiny", signed.digest, tmp_path / "target", public_key=public)
    verify_entry(tmp_path / "store", "tiny", signed.digest, public)
    for digest, key, words in (
        (plain.digest, public, "is not signed"),
        (signed.digest, foreign, "its signature is not by"),
    ):
        with pytest.raises(StoreError, match=words):
            fetch(tmp_path / "store", "tiny", digest, tmp_path / "refused", public_key=key)
        with pytest.raises(StoreError, match=words):
            verify_entry(tmp_path / "store", "tiny", digest, key)
    assert not (tmp_path / "refused").exists()


def test_a_signature_is_of_one_bundle_only(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    one, other = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", note="b")
    for bundle in (one, other):
        published(bundle, tmp_path / "store", private)
    first, second = (
        tmp_path / "store" / "tiny" / f"{b.digest.replace(':', '-')}.signature.json" for b in (one, other)
    )
    second.unlink()
    shutil.copy(first, second)
    assert fetch(tmp_path / "store", "tiny", one.digest, tmp_path / "target", public_key=public)
    with pytest.raises(StoreError, match="its signature is not by"):
        fetch(tmp_path / "store", "tiny", other.digest, tmp_path / "refused", public_key=public)


def test_what_was_published_without_can_be_signed_later(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    bundle = tiny_bundle(tmp_path / "a")
    published(bundle, tmp_path / "store")
    published(bundle, tmp_path / "store", private)
    verify_entry(tmp_path / "store", "tiny", bundle.digest, public)


def test_keys_that_are_none_are_named(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    (tmp_path / "no-key.pem").write_text("nothing")
    for key in (tmp_path / "no-key.pem", tmp_path / "missing.pem"):
        with pytest.raises(StoreError, match=f"signing key {key} cannot be used"):
            published(bundle, tmp_path / "store", key)
    private, _ = make_keys(tmp_path, "ours")
    published(bundle, tmp_path / "store", private)
    for key in (tmp_path / "no-key.pem", tmp_path / "missing.pem"):
        with pytest.raises(StoreError, match=f"public key {key} cannot be used"):
            fetch(tmp_path / "store", "tiny", bundle.digest, tmp_path / "target", public_key=key)
