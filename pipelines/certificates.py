"""Certificates of servers: which file checks them, and what is said where one is refused."""

import ssl
from pathlib import Path

from troika.errors import ParameterError

_OTHER_NAME = ("doesn't match", "not valid for", "mismatch")


def tls_words(cause: BaseException) -> str:
    """Return in plain words why a handshake failed."""
    text = " ".join(str(cause).split())
    if "self-signed" in text or "self signed" in text:
        return "its certificate is self-signed"
    if "unable to get local issuer" in text:
        return "its certificate is of an authority that is not known here"
    if "expired" in text:
        return "its certificate has expired"
    if any(word in text.lower() for word in _OTHER_NAME):
        return "its certificate is of another name"
    if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text:
        return "it does not speak TLS; is it http:// and not https://?"
    return f"the TLS handshake failed ({text})"


def tls_hint(text: str) -> str:
    """Return what to do about a failed handshake; empty where another authority would not mend it."""
    # None of these is mended by another authority.
    if any(word in text.lower() for word in ("wrong version", "wrong_version", "expired", *_OTHER_NAME)):
        return ""
    return "; give the authority's certificate with --ca FILE"


def checked_certificates(path: Path) -> str:
    """Return the path of a file that holds certificates.

    Raises:
        ParameterError: it cannot be read, or holds none.
    """
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # what SSLError is, too
        reason = "there is no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise ParameterError(f"--ca {path}: cannot be used ({reason})") from None
    return str(path)
