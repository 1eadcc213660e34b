"""Where a model store can be: a folder, or a bucket of an object store; both seen as files with paths.

Knows nothing of models. A folder is used through the operating system, since no library offers an exclusive and
atomic creation there; S3, Google Cloud Storage and others through fsspec.
"""

import os
import re
import shutil
import stat
import tempfile
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from troika.errors import StoreError, install_hint

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        # With the library's own repetitions a dead endpoint is given up after about half a minute.
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 2}},
        "use_listings_cache": False,
    },
    "gs": {"use_listings_cache": False, "requests_timeout": 20},
}
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
_INCOMING = ".incoming-"


class Storage(ABC):
    """Files under one URL. Paths are relative, with `/`. A folder raises OSError, a bucket StoreError."""

    url: str
    """As others should be given it."""

    @abstractmethod
    def names(self, folder: str) -> dict[str, datetime]:
        """All files below a folder, relative to it, and when they were written; empty if there is none.

        Raises:
            StoreError: something there is no plain file.
        """

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Read a file; follows no link. FileNotFoundError if there is none."""

    @abstractmethod
    def put(self, source: Path, path: str) -> None:
        """Bring a local file into place, whole or not at all."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one: of several at once exactly one gets True."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, and folders that it leaves empty; nothing happens if there is none."""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary local folder whose files `put` takes."""
        with tempfile.TemporaryDirectory(prefix="troika-store-") as folder:
            yield Path(folder)


class Folder(Storage):
    """A folder, perhaps a shared one."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    def names(self, folder: str) -> dict[str, datetime]:  # noqa: D102
        found: dict[str, datetime] = {}
        pending = [self.root / folder]
        while pending:
            here = pending.pop()
            try:
                entries = list(os.scandir(here))
            except FileNotFoundError:
                continue
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(Path(entry.path))
                    continue
                if not stat.S_ISREG(status.st_mode):
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a plain file"
                    raise StoreError(f"model store: {entry.path} is {kind}; remove it by hand")
                name = Path(entry.path).relative_to(self.root / folder).as_posix()
                found[name] = datetime.fromtimestamp(status.st_mtime, UTC)
        return found

    def open(self, path: str) -> BinaryIO:  # noqa: D102
        # O_NONBLOCK: a named pipe must not hang us.
        return os.fdopen(os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")

    def put(self, source: Path, path: str) -> None:  # noqa: D102
        target = self._inside(path)
        source.chmod(0o444)
        source.replace(target)

    def create(self, path: str, content: bytes) -> bool:  # noqa: D102
        target = self._inside(path)
        # In the root, so that a crash leaves no foreign file in an entry.
        handle, temporary = tempfile.mkstemp(prefix=_INCOMING, dir=self.root)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o444)
            # Unlike a rename, a link never replaces.
            target.hardlink_to(temporary)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    def remove(self, path: str) -> None:  # noqa: D102
        target = self.root / path
        target.unlink(missing_ok=True)
        for parent in target.parents:
            if parent == self.root:
                break
            with suppress(OSError):
                parent.rmdir()

    @contextmanager
    def scratch(self) -> Iterator[Path]:  # noqa: D102
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _inside(self, path: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.parent.resolve() != self.root.resolve() / Path(path).parent:
            raise StoreError(f"model store: {path} is a symbolic link or behind one; remove it by hand")
        return target


class Bucket(Storage):
    """A bucket, or a folder in one, of any object store that fsspec knows."""

    def __init__(self, url: str) -> None:
        import fsspec  # noqa: PLC0415 - a folder does without

        self.url = url.rstrip("/")
        scheme = urlsplit(url).scheme
        try:
            kind = fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise StoreError(f"model store {url} needs {install_hint('store')}: {error}") from None
        with self._told("open"):
            self._files = kind(skip_instance_cache=True, **_OPTIONS[scheme])
        self._root = kind._strip_protocol(self.url)
        self._exclusive: bool | None = None

    def names(self, folder: str) -> dict[str, datetime]:  # noqa: D102
        where = f"{self._root}/{folder}".rstrip("/")
        with self._told("list"):
            found = self._files.find(where, detail=True)
        return {
            path.removeprefix(f"{where}/"): _written(info)
            for path, info in found.items()
            if info["type"] == "file"
        }

    def open(self, path: str) -> BinaryIO:  # noqa: D102
        with self._told("read"):
            file: BinaryIO = self._files.open(f"{self._root}/{path}", "rb")
        return _Told(file, self)  # type: ignore[return-value]

    def put(self, source: Path, path: str) -> None:  # noqa: D102
        with self._told("write"):
            self._files.put_file(str(source), f"{self._root}/{path}")

    def create(self, path: str, content: bytes) -> bool:  # noqa: D102
        if self._exclusive is None:
            self._exclusive = self._probe()
        if self._exclusive:
            return self._create(path, content)
        with self._told("look up"):
            if self._files.exists(f"{self._root}/{path}"):
                return False
        with self._told("write"):
            self._files.pipe_file(f"{self._root}/{path}", content)
        return True

    def remove(self, path: str) -> None:  # noqa: D102
        with self._told("remove"), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{path}")

    def _create(self, path: str, content: bytes) -> bool:
        try:
            with self._told("write"):
                self._files.pipe_file(f"{self._root}/{path}", content, mode="create")
        except FileExistsError:
            return False
        return True

    def _probe(self) -> bool:
        """Whether the store really refuses to write over what is there."""
        path = f"{_INCOMING}probe-{uuid.uuid4().hex}"
        try:
            self._create(path, b"1")
            refused = not self._create(path, b"2")
        finally:
            self.remove(path)
        if not refused:
            warnings.warn(
                f"model store {self.url} ignores conditional writes: of two publishers of one model at once, both "
                "may write its manifest (the same bytes); use a store that knows If-None-Match",
                stacklevel=4,
            )
        return refused

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn what the library raises into StoreError; FileNotFoundError and FileExistsError mean something."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, StoreError):
            raise
        except Exception as error:  # every object store's library has exceptions of its own
            if (
                "PreconditionFailed" in repr(error)
                or "412" in repr(error)
                or "pre-condition" in str(error).lower()
            ):
                raise FileExistsError(str(error)) from None
            words = str(error) or type(error).__name__
            raise StoreError(
                f"cannot {doing} in model store {self.url}: {words}; is it up, and may you?"
            ) from None


class _Told:
    """A file of a Bucket whose errors are StoreErrors."""

    def __init__(self, file: BinaryIO, bucket: Bucket) -> None:
        self._file, self._bucket = file, bucket

    def read(self, size: int = -1) -> bytes:
        with self._bucket._told("read"):
            return self._file.read(size)

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_storage(store: str | Path) -> Storage:
    """The storage that a path or URL means: a path, `file://`, `s3://` or `gs://`.

    Object stores take endpoint and credentials from the environment, as their own tools do (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, ..., GOOGLE_APPLICATION_CREDENTIALS).

    Raises:
        StoreError: the URL's scheme is not supported, it names no bucket, or it is a file URL of another host.
    """
    text = str(store)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text):
        return Folder(Path(text).expanduser().absolute())
    url = urlsplit(text)
    if url.scheme in _LIBRARIES:
        if "@" in text:
            raise StoreError(
                f"model store {text} is not usable: no user, key or password belongs into its URL; give "
                f"{url.scheme}://bucket, and the key by the environment, as the store's own tools take it"
            )
        if not url.netloc or url.query or url.fragment:
            raise StoreError(
                f"model store {text} is not usable: give {url.scheme}://bucket or {url.scheme}://bucket/folder"
            )
        return Bucket(text)
    if url.scheme != "file":
        raise StoreError(
            f"model store {text}: {url.scheme}:// is not supported; give a path, file:///path, s3://bucket or gs://bucket"
        )
    if url.netloc not in {"", "localhost"} or not url.path:
        raise StoreError(
            f"model store {text} names the host {url.hostname!r}; write file:///path with three slashes"
        )
    return Folder(Path(unquote(url.path)))


def _written(info: dict[str, Any]) -> datetime:
    when = info.get("LastModified") or info.get("mtime") or info.get("updated")
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    if not isinstance(when, datetime):
        raise StoreError(f"the store does not say when {info.get('name')} was written")
    return when if when.tzinfo else when.replace(tzinfo=UTC)
