"""Settings on which safety depends: one that is set, and empty or of no use, is refused and never skipped."""

import os
import re
from pathlib import Path

from troika.errors import ParameterError

_HEADER_VALUE = re.compile(r"[!-~]+")


def key_file(name: str) -> Path | None:
    """Return the path of a PEM file from the environment variable `name`; None where it is not set.

    Raises:
        ParameterError: it is set, but empty, or there is no such file.
    """
    given = os.environ.get(name)
    return None if given is None else check_key_file(given, name)


def check_key_file(given: str | Path, name: str) -> Path:
    """Return the path of a PEM file.

    Args:
        given: its path.
        name: what an error calls it.

    Raises:
        ParameterError: there is no such file.
    """
    if not str(given).strip():
        raise ParameterError(f"{name} is set, but empty: give the path of a PEM file, or unset it to do without")
    path = Path(given)
    if not path.is_file():
        raise ParameterError(f"{name}: {str(given)!r} is no file; give the path of a PEM file, or unset {name}")
    return path


def admin_key() -> str | None:
    """Return TROIKA_ADMIN_KEY, or the content of the file TROIKA_ADMIN_KEY_FILE; None where neither is set.

    Raises:
        ParameterError: it is set, but is nothing that a header can hold, or the file cannot be read.
    """
    given, file = os.environ.get("TROIKA_ADMIN_KEY"), os.environ.get("TROIKA_ADMIN_KEY_FILE")
    if given is not None and file is not None:
        raise ParameterError("give either TROIKA_ADMIN_KEY or TROIKA_ADMIN_KEY_FILE")
    if file is not None:
        try:
            given = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ParameterError(f"TROIKA_ADMIN_KEY_FILE: {file!r} cannot be read: {error}") from None
    return None if given is None else check_admin_key(given)


def check_admin_key(key: str) -> str:
    """Return `key`, or raise ParameterError where no header can hold it."""
    if not _HEADER_VALUE.fullmatch(key):
        raise ParameterError("the admin key must be of letters, digits and signs, without blanks, and not empty")
    return key
