"""Signatures of bundles, by Sigstore's model-signing library with an elliptic-curve key.

A signature is over the manifest, whose hashes cover every file. Keys are made with
`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and `openssl ec -in key.pem -pubout -out key.pub`.
Whether signatures are made or asked for is decided by whoever configures a key.
"""

import tempfile
from pathlib import Path

from troika.errors import BundleError, StoreError

SIGNATURE = ".signature.json"


def sign(manifest: bytes, private_key: Path) -> bytes:
    """The signature of a manifest.

    Raises:
        StoreError: the key cannot be used.
    """
    from model_signing.signing import Config  # noqa: PLC0415 - takes a second to import

    with tempfile.TemporaryDirectory(prefix="troika-signing-") as folder:
        content, signature = Path(folder) / "manifest.json", Path(folder) / "signature.json"
        content.write_bytes(manifest)
        try:
            Config().use_elliptic_key_signer(private_key=private_key).sign(content, signature)
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"signing key {private_key} cannot be used: {error}; give a PEM file with an elliptic-curve key"
            ) from None
        return signature.read_bytes()


def check_signature(manifest: bytes, signature: bytes | None, public_key: Path) -> None:
    """Raise BundleError unless `signature` is that of `manifest` by the owner of `public_key`.

    Raises:
        StoreError: the key cannot be used.
        BundleError: there is no signature, or it is of something or somebody else.
    """
    from model_signing.verifying import Config  # noqa: PLC0415 - takes a second to import

    if signature is None:
        raise BundleError(f"it is not signed, but a signature is asked for (by {public_key})")
    try:
        verifier = Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"public key {public_key} cannot be used: {error}; give a PEM file with an elliptic-curve public key"
        ) from None
    with tempfile.TemporaryDirectory(prefix="troika-signing-") as folder:
        content, written = Path(folder) / "manifest.json", Path(folder) / "signature.json"
        content.write_bytes(manifest)
        written.write_bytes(signature)
        try:
            verifier.verify(content, written)
        except Exception as error:  # the library documents none; whatever it raises, the signature does not hold
            raise BundleError(f"its signature is not by {public_key}: {error or type(error).__name__}") from None
