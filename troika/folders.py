"""Files and folders that appear whole or not at all, and digests of them."""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from troika.errors import TroikaError


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes the place of `folder`, on error it is removed.

    What a killed process has left of earlier attempts is removed. Of two at once the later one stays, whole.

    Raises:
        TroikaError: the parent folder cannot be written, or `folder` is a file or a link.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise TroikaError(f"cannot write {folder}: a file or a link is there; remove it, or give another path")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_NEW, dir=folder.parent))
        lock = os.open(new, os.O_RDONLY)
    except OSError as error:
        raise TroikaError(f"cannot write {folder}: {error.strerror}; give a folder that you may write") from None
    try:
        # Held until this process ends in whatever way, so others can tell that `new` is alive; a file system
        # without locks has none to remove, either.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield new
        new.chmod(0o755)
        _swap(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    finally:
        os.close(lock)


_NEW = ".new"


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, which is moved aside whole before it is removed."""
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", suffix=_NEW, dir=folder.parent, ignore_cleanup_errors=True
    ) as aside:
        while True:
            with suppress(FileNotFoundError):
                folder.rename(Path(aside) / f"{time.monotonic_ns()}")
            try:
                new.rename(folder)
            except OSError as error:
                # Another process has put its own there in this moment.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left beside `folder`: no lock, and no new date."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*{_NEW}"):
        with suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # One that has just been made is not locked yet.
                if time.time() - left.stat().st_ctime > _YOUNG_SECONDS:
                    shutil.rmtree(left)
            finally:
                os.close(lock)


_YOUNG_SECONDS = 5


@contextmanager
def private_files() -> Iterator[None]:
    """Make new files and folders the owner's alone (0600, 0700), whatever the umask: in a pod of Argo it is 0."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


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
