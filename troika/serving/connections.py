"""When a client goes on with its connection, and when it opens another.

A new one is opened when the old one is old, has failed, or belongs to the process that this one was forked from.
What is under way on the old one comes to its end there, so no request fails or is sent twice for it.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from troika.errors import RequestError

C = TypeVar("C")

CONNECTION_SECONDS = 30.0
"""Within a minute a new server behind the address gets most of its fair share."""
CONNECTION_REQUESTS = 10_000


def flavour(protocol: str) -> Any:
    """Return the module that speaks `protocol`, imported only now.

    Both have `list_models`, `read_config`, `infer`, `Connection`, `AsyncConnection` and `meaning_of`.

    Raises:
        RequestError: what it needs is not installed.
    """
    try:
        return import_module(f"troika.serving.{protocol}_protocol")
    except ImportError as error:
        raise RequestError(
            f"protocol {protocol} needs a package that is not installed ({error}); install the extra `client`"
        ) from None


@dataclass
class Held(Generic[C]):
    """A connection, and how long it is good for."""

    connection: C
    end: float
    """In terms of time.monotonic()."""
    requests_left: float
    users: int = 0
    """Requests that are under way."""
    retired: bool = False
    """Whether it takes no more requests."""


@dataclass
class _Process(Generic[C]):
    """The connections of one process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    current: Held[C] | None = None
    unused: list[C] = field(default_factory=list)
    """Retired, and to be closed by the next who can."""


class Connections(Generic[C]):
    """The connections of one client, one after the other. Any thread may use it.

    Args:
        open_new: opens a connection; must not wait for anything.
        seconds: after about so long a new one is opened: between half of it and all of it, so that many clients
            do not do so at once.
        requests: after about so many requests, too.
    """

    def __init__(self, open_new: Callable[[], C], seconds: float, requests: int) -> None:
        if not seconds > 0:
            raise RequestError(f"connection_seconds must be more than 0, got {seconds}; float('inf') is for ever")
        if not requests >= 1:
            raise RequestError(f"connection_requests must be at least 1, got {requests}")
        self._open_new, self._seconds, self._requests = open_new, seconds, requests
        # By process, as a fork copies all of this, a locked lock perhaps. An inherited connection is kept and
        # never touched: to close it would end its parent's.
        self._processes: dict[int, _Process[C]] = {}
        self._closed = False

    def take(self) -> Held[C]:
        """Return the connection for one request, to be given back after it.

        Raises:
            RequestError: the client is closed.
        """
        process = self._process()
        with process.lock:
            if self._closed:
                raise RequestError("this client is closed; open another")
            held = process.current
            if held is None or time.monotonic() >= held.end or held.requests_left < 1:
                if held is not None:
                    self._retire(process, held)
                share = random.uniform(0.5, 1.0)  # noqa: S311 - keeps many clients apart
                held = process.current = Held(
                    self._open_new(), time.monotonic() + share * self._seconds, max(1, share * self._requests)
                )
            held.requests_left -= 1
            held.users += 1
            return held

    def give_back(self, held: Held[C], *, broken: bool) -> list[C]:
        """Return the connections that nobody uses any more, to be closed.

        Args:
            held: what `take` has returned.
            broken: whether the request's failure may be the connection's.
        """
        process = self._process()
        with process.lock:
            held.users -= 1
            if held.retired and not held.users:
                process.unused.append(held.connection)
            elif broken and not held.retired:
                self._retire(process, held)
            unused, process.unused = process.unused, []
            return unused

    def close(self) -> list[C]:
        """Take no more requests. Return what is to be closed; what is in use is returned by `give_back`."""
        self._closed = True
        process = self._process()
        with process.lock:
            if process.current is not None:
                self._retire(process, process.current)
            unused, process.unused = process.unused, []
            return unused

    def _process(self) -> _Process[C]:
        return self._processes.setdefault(os.getpid(), _Process())

    def _retire(self, process: _Process[C], held: Held[C]) -> None:
        held.retired = True
        if process.current is held:
            process.current = None
        if not held.users:
            process.unused.append(held.connection)
