"""A log that another process writes: opened, and kept from filling the disk."""

import os
import shutil
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from troika.errors import ServerError

MAX_BYTES = 16 * 2**20
_SECONDS = 0.2


class LogLimit:
    """Inside a `with` block, moves what a log holds aside (`NAME.1`, replaced each time) when it has become long.

    The log must be open for appending in the process that writes it, which then goes on at its beginning.

    Args:
        log: the file.
        max_bytes: how long it may become, and a little more; with what was moved aside, twice as much.
    """

    def __init__(self, log: Path, max_bytes: int = MAX_BYTES) -> None:
        self._log, self._max_bytes = log, max_bytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            with suppress(OSError):  # such as a full disk, or a log that somebody has removed
                if self._log.stat().st_size > self._max_bytes:
                    self._move_aside()

    def _move_aside(self) -> None:
        with self._log.open("rb") as source, aside(self._log).open("wb") as target:
            source.seek(-self._max_bytes, os.SEEK_END)
            shutil.copyfileobj(source, target)
        os.truncate(self._log, 0)


def aside(log: Path) -> Path:
    """Return where the earlier part of a log is."""
    return log.with_name(f"{log.name}.1")


def open_log(log_file: Path | None, cleanup: ExitStack) -> Path:
    """Return the path of an empty log.

    Args:
        log_file: where it should be; None takes a temporary file, which is kept only if the server fails.
        cleanup: removes a temporary one.

    Raises:
        ServerError: it cannot be written.
    """
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_file.write_bytes(b"")
        except OSError as error:
            raise ServerError(f"cannot write log file {log_file}: {error.strerror}") from None
        return log_file.absolute()
    handle, name = tempfile.mkstemp(prefix=f"troika-triton-{os.getpid()}-", suffix=".log")
    os.close(handle)

    def remove(kind: type[BaseException] | None, *_: object) -> None:
        # After a failure the message names the log, so it must stay.
        if kind is None or not issubclass(kind, ServerError):
            Path(name).unlink(missing_ok=True)
            aside(Path(name)).unlink(missing_ok=True)

    cleanup.push(remove)
    return Path(name)
