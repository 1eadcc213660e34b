"""Arguments and proxies that no client can use: one error, in words, without passwords, and at once."""

import asyncio
import socket
import threading
import urllib.request
from typing import Any

import pytest
from client_address import Protocol

from troika.errors import DeadlineError, RequestError, ServerError, UnknownHostError, UnreachableError
from troika.serving.async_client import AsyncClient
from troika.serving.client import Client

NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("argument", "value"),
    [("timeout", value) for value in (0, -1, float("nan"), float("inf"), 1e13, 10**400, "5", None)]
    + [("model", value) for value in ("", "a\nb", "\ud800", 5, b"m")],
)
def test_an_argument_of_no_use_is_named(kind: Any, protocol: Protocol, argument: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{argument} must be"):
        kind(NOBODY, protocol, **({"model": "tiny"} | {argument: value}))


@pytest.mark.parametrize("host", ["a..b", "x" * 64, f"{'x' * 64}.y", "a." * 127 + "b", "a-b-", ".a"])
def test_a_name_that_no_host_can_have_is_refused(protocol: Protocol, host: str) -> None:
    with pytest.raises(RequestError, match=r"url .* is not usable"):
        Client(f"{host}:9", protocol, model="tiny")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No proxy is set."""
    for name in (
        *(f"{name}_proxy" for name in urllib.request.getproxies_environment()),
        "https_proxy",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:s3cret@proxy.invalid:abc",
        "http://user:s3cret/more@proxy.invalid:80",
        "http://user:s3cret@proxy.invalid:99999",
        "http://user:s3cret@[::1",
        "http://user:s3cr\u00e9t@proxy.invalid:80",
        "http://user:s3c\nret@proxy.invalid:80",
        "http://user:s3cret@:80",
    ],
)
def test_a_proxy_of_no_use_is_named_without_its_password(
    elsewhere: pytest.MonkeyPatch, protocol: Protocol, proxy: str
) -> None:
    elsewhere.setenv("http_proxy", proxy)
    with pytest.raises(RequestError, match="http_proxy names a proxy that is not usable") as caught:
        Client("example.invalid:9", protocol, timeout=5, model="tiny", retries=0)
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        ("http://user:s3cret@proxy.invalid:80", UnknownHostError),
        ("http://user:s3cret@127.0.0.1:9", UnreachableError),
    ],
)
def test_a_failure_names_the_proxy_that_was_asked(
    elsewhere: pytest.MonkeyPatch, protocol: Protocol, proxy: str, kind: type[ServerError]
) -> None:
    elsewhere.setenv("http_proxy", proxy)
    with pytest.raises(kind, match=f"asked was the proxy {proxy.partition('@')[2]} of") as caught:
        Client("example.invalid:9", protocol, timeout=20, model="tiny", retries=0)
    assert "s3cret" not in str(caught.value)


def test_a_silent_name_server_does_not_hold_asyncio_run(elsewhere: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    elsewhere.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait() and [])
    errors: list[BaseException] = []

    async def ask() -> None:
        with pytest.raises(DeadlineError) as caught:
            await AsyncClient("example.invalid:9", "http", timeout=0.5, model="tiny", retries=0).__aenter__()
        errors.append(caught.value)

    thread = threading.Thread(target=asyncio.run, args=[ask()], daemon=True)
    thread.start()
    thread.join(15)
    ended = not thread.is_alive()
    answers.set()
    thread.join()
    assert ended
    assert errors
