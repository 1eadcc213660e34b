"""The KServe protocol, version 2, by HTTP with binary tensors: requests, connections, and what errors mean."""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from ssl import SSLContext
from threading import Thread
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote
from urllib.request import getproxies

import httpcore

from troika.errors import OverloadedError, RequestError, ServerError
from troika.serving.address import proxy_for
from troika.serving.tensors import Answer, datatype_of, from_bytes, to_bytes
from troika.serving.troubles import (
    UnreadableAnswerError,
    late,
    restricted,
    through,
    unknown_host,
    unreachable,
    unreadable,
)
from troika.serving.wire import OUTPUTS, Rows

_HEADER_LENGTH = "Inference-Header-Content-Length"
_POOL: dict[str, Any] = {"max_connections": 64, "keepalive_expiry": 15.0}
"""An idle connection is not used again after some seconds, as proxies end them then."""
_REFUSED = {400, 405, 411, 413, 414, 415, 422, 431}
_LATE = {408, 499}
_UNREACHABLE = {502, 504}
"""Said by a proxy, as is a 503 that is not in Triton's words."""
_BUSY = {429, 503}


class Request(NamedTuple):
    """One request, and how the headers and the body of its answer are read."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    read: Callable[[Mapping[str, str], bytes], Any]


class StatusError(Exception):
    """An answer whose status is not 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body


def list_models() -> Request:
    """Ask for the names of all models."""
    return Request(
        "POST", "/v2/repository/index", [], b"", lambda _, body: [model["name"] for model in json.loads(body)]
    )


def read_config(model: str) -> Request:
    """Ask for a model's configuration."""
    return Request("GET", f"/v2/models/{quote(model, safe='')}/config", [], b"", lambda _, body: json.loads(body))


def infer(model: str, rows: Rows, seconds: float) -> Request:
    """Ask for images; Triton does not begin what it has not begun after `seconds`."""
    tensors = {name: to_bytes(values) for name, values in rows.items()}
    described = {
        "inputs": [
            {
                "name": name,
                "datatype": datatype_of(values),
                "shape": values.shape,
                "parameters": {"binary_data_size": len(tensors[name])},
            }
            for name, values in rows.items()
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS],
        "parameters": {"timeout": int(seconds * 1e6)},
    }
    head = json.dumps(described).encode()
    headers = [(_HEADER_LENGTH, str(len(head))), ("Content-Type", "application/octet-stream")]
    body = b"".join((head, *tensors.values()))
    return Request("POST", f"/v2/models/{quote(model, safe='')}/infer", headers, body, _read_answer)


def _read_answer(headers: Mapping[str, str], body: bytes) -> Answer:
    length = int(headers.get(_HEADER_LENGTH.lower(), len(body)))
    outputs, start = {}, length
    for output in json.loads(body[:length])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        outputs[output["name"]] = from_bytes(output["datatype"], output["shape"], body[start:end])
        start = end
    return Answer(outputs)


_end: ContextVar[float] = ContextVar("end of the request that this thread makes")


class Connection:
    """A pool of connections; any thread may use it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pool = httpcore.ConnectionPool(proxy=proxy_of(address), network_backend=_Backend(), **_POOL)

    def ask(self, request: Request, seconds: float) -> Any:
        """Return the answer, or raise what `meaning_of` understands; either within `seconds`."""
        token = _end.set(monotonic() + seconds)
        try:
            return _read(request, self._pool.request(**_arguments(request, self._address, seconds)))
        finally:
            _end.reset(token)

    def close(self) -> None:
        """End all of them."""
        self._pool.close()


class AsyncConnection:
    """The same for asyncio. The caller limits the time: asyncio.timeout ends all that is waited for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pool = httpcore.AsyncConnectionPool(
            proxy=proxy_of(address), network_backend=_AsyncBackend(), **_POOL
        )

    async def ask(self, request: Request, seconds: float) -> Any:
        """Return the answer, or raise what `meaning_of` understands."""
        return _read(request, await self._pool.request(**_arguments(request, self._address, seconds)))

    async def close(self) -> None:
        """End all of them."""
        await self._pool.aclose()


def meaning_of(error: BaseException, address: str) -> RequestError | ServerError | None:
    """Return what an error of a connection means; None if it is none of HTTP's."""
    if isinstance(error, TimeoutError | httpcore.TimeoutException):
        return late(address)
    if isinstance(error, UnreadableAnswerError):
        return unreadable(str(error), address)
    if isinstance(error, StatusError):
        return _meaning_of_status(error, address)
    if isinstance(error, httpcore.NetworkError | httpcore.ProtocolError | httpcore.ProxyError | OSError):
        words = f"{error or type(error).__name__}{through(_proxy_url(address))}"
        if any(isinstance(cause, socket.gaierror) for cause in _causes(error)):
            return unknown_host(words, address)
        return unreachable(words, address, "http")
    return None


def proxy_of(address: str) -> httpcore.Proxy | None:
    """Return the proxy that the environment names for `host:port`; an address of this machine has none.

    Raises:
        RequestError: it is of a kind that cannot be used.
    """
    url = _proxy_url(address)
    if url is None:
        return None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise RequestError(
            f"http_proxy or all_proxy names a proxy of kind {url.scheme!r}, which is not usable: give "
            f"http://host:port, or put the host of {address} into no_proxy"
        )
    auth = (unquote(url.username), unquote(url.password or "")) if url.username else None
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return httpcore.Proxy(f"{url.scheme}://{host}:{url.port or (443 if url.scheme == 'https' else 80)}", auth=auth)


def _proxy_url(address: str) -> SplitResult | None:
    proxies = getproxies()
    return proxy_for(address, {"http_proxy": proxies.get("http"), "all_proxy": proxies.get("all")})


def _arguments(request: Request, address: str, seconds: float) -> dict[str, Any]:
    limits = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
    return {
        "method": request.method,
        "url": f"http://{address}{request.path}",
        "headers": [("Host", address), ("Accept", "*/*"), *request.headers],
        "content": request.body,
        "extensions": {"timeout": limits},
    }


def _read(request: Request, response: httpcore.Response) -> Any:
    if response.status != 200:
        raise StatusError(response.status, response.content)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    try:
        return request.read(headers, response.content)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableAnswerError(repr(error)) from None


def _meaning_of_status(error: StatusError, address: str) -> RequestError | ServerError:
    try:
        words, is_triton = str(json.loads(error.body)["error"]), True
    except (KeyError, TypeError, ValueError):
        words, is_triton = (
            f"HTTP {error.status} {error.body[:200].decode(errors='replace').strip()}".strip(),
            False,
        )
    meaning: RequestError | ServerError = ServerError(f"{address} failed: {words}")
    if error.status in _REFUSED:
        meaning = RequestError(f"{address} refused the request: {words}")
    elif error.status in _LATE:
        meaning = late(address)
    elif "restricted" in words:
        meaning = restricted(address)
    elif error.status in _UNREACHABLE or (error.status == 503 and not is_triton):
        meaning = unreachable(words, address, "http")
    elif error.status in _BUSY:
        meaning = OverloadedError(f"{address} takes no more requests now: {words}; ask again later")
    return meaning


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


class _Backend(httpcore.NetworkBackend):
    """Connects and transfers within the deadline of the request, however little comes at a time."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the request's deadline is the limit
        *given: Any,
        **named: Any,
    ) -> "_Stream":
        addresses = _addresses_of(host, port)
        for number, address in enumerate(addresses, 1):
            seconds = _seconds_left()
            try:
                # Where one of several hosts says nothing, there is time for the others.
                share = seconds / (len(addresses) - number + 1)
                return _Stream(httpcore.SyncBackend().connect_tcp(address, port, share, *given, **named))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _seconds_left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        size = 2**16
        for start in range(0, len(buffer), size):
            self._stream.write(buffer[start : start + size], _seconds_left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, context: SSLContext, server: str | None = None, timeout: float | None = None) -> "_Stream":  # noqa: ARG002
        return _Stream(self._stream.start_tls(context, server, _seconds_left()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left() -> float:
    left = _end.get() - monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the request is over")
    return left


class _AsyncBackend(httpcore.AnyIOBackend):
    """Looks names up as the other does, since asyncio.run waits for the threads in which asyncio itself would."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *given: Any, **named: Any
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[_Addresses] = loop.create_future()

        def put(answer: _Addresses) -> None:
            if not found.done():
                found.set_result(answer)

        def deliver(answer: _Addresses) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(put, answer)

        _look_up(host, port, deliver)
        addresses = _usable(await found)
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await super().connect_tcp(address, port, share, *given, **named)
        return await super().connect_tcp(addresses[-1], port, share, *given, **named)


_Addresses = list[str] | OSError


def _look_up(host: str, port: int, deliver: Callable[[_Addresses], None]) -> None:
    """Hand the addresses of a name over, from another thread, which the end of the program does not wait for."""

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            deliver(list(dict.fromkeys(str(info[4][0]) for info in infos)))
        except OSError as error:
            deliver(error)
        except UnicodeError as error:
            deliver(OSError(str(error)))

    Thread(target=ask, daemon=True).start()


def _addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses of a name, within the deadline; a silent name server would hold the caller longer."""
    found: SimpleQueue[_Addresses] = SimpleQueue()
    _look_up(host, port, found.put)
    try:
        answer = found.get(timeout=_seconds_left())
    except Empty:
        raise httpcore.ConnectTimeout(f"no name server says what {host} is") from None
    return _usable(answer)


def _usable(answer: _Addresses) -> list[str]:
    if isinstance(answer, OSError):
        try:
            raise answer
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
    return answer
