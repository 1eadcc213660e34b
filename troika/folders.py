"""Files and folders that appear whole or not at all, and digests of them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from troika.errors import TroikaError


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes the place of `folder`, on error it is removed.

    Raises:
        TroikaError: the parent folder cannot be written, or `folder` is a file or a link.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise TroikaError(f"cannot write {folder}: a file or a link is there; remove it, or give another path")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise TroikaError(f"cannot write {folder}: {error.strerror}; give a folder that you may write") from None
    try:
        yield new
        new.chmod(0o755)
        if folder.is_dir():
            shutil.rmtree(folder)
        new.replace(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`: a reader sees the old content or the new, never half of it.

    Raises:
        TroikaError: the path cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TroikaError(f"cannot write {path}: {error.strerror}; give a path that you may write") from None


def sha256_file(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def check_writable(folder: Path, name: str) -> None:
    """Make `folder` and make sure that a file can be written there, before hours of work depend on it.

    Raises:
        TroikaError: it cannot; `name` says which option it comes from.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TroikaError(
            f"{name}: cannot write {folder}: {error.strerror}; give a folder that you may write"
        ) from None
