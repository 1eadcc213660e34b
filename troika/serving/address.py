"""Addresses of servers, `host:port`: checked, and whether they are on this machine.

Sends nothing and asks no name server.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass

from troika.errors import RequestError

_NAME = re.compile(r"(?!.*[^.]{64})[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_LONGEST_NAME = 254


def check_host_port(url: str, name: str = "url") -> str:
    """Return the `host:port` of a URL; an IPv6 address keeps its brackets.

    Args:
        url: `host:port`, with or without `http://` or `grpc://`.
        name: what an error calls it.

    Raises:
        RequestError: it is neither; says what would be right.
    """
    address = url.removeprefix("http://").removeprefix("grpc://").rstrip("/")
    host, colon, port = address.rpartition(":")
    if "@" in url:
        raise RequestError(f"{name} is not usable: give host:port, without user and password")
    if address.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.]+", address):
        raise RequestError(
            f"{name} {url!r} is not usable: an IPv6 address stands in brackets before its port, such as [::1]:8001"
        )
    if not colon or not _is_host(host) or not (port.isascii() and port.isdecimal()):
        raise RequestError(f"{name} {url!r} is not usable: give host:port, such as localhost:8001 or [::1]:8001")
    if not 1 <= int(port) <= 65535:
        raise RequestError(f"{name} {url!r} is not usable: its port must be in 1..65535")
    return f"{host}:{int(port)}"


def split_host_port(address: str) -> tuple[str, int]:
    """Return host, without brackets, and port of what `check_host_port` has returned."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_local(address: str) -> bool:
    """Return whether `host:port` is an address of this machine alone, to which no proxy leads."""
    host, _ = split_host_port(address)
    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return True
    try:
        found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if not re.fullmatch(r"[0-9xA-Fa-f.]+", host):
            return False
        try:
            # Short forms such as 127.1, which the operating system understands, too.
            found = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return False
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_unspecified


def proxy_for(address: str, named: Mapping[str, str | None]) -> SplitResult | None:
    """Return the parts of the URL of the proxy that leads to `host:port`; an address of this machine has none.

    Args:
        address: what `check_host_port` has returned.
        named: the variables that may name one and what they hold; the first that holds something counts.

    Raises:
        RequestError: it is no URL. The message does not repeat it, as a password may stand there.
    """
    variable, given = next(((name, text.strip()) for name, text in named.items() if text), ("", ""))
    if not given or is_local(address) or proxy_bypass(address):
        return None
    try:
        url = urlsplit(given if "://" in given else f"http://{given}")
        if url.hostname and given.isascii() and given.isprintable() and url.port != 0:
            return url
    except ValueError:
        pass
    raise RequestError(
        f"{variable} names a proxy that is not usable: give http://host:port, %-escapes in user and password, "
        f"or put the host of {address} into no_proxy"
    )


def _is_host(host: str) -> bool:
    if host.startswith("["):
        if not host.endswith("]"):
            return False
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    return bool(_NAME.fullmatch(host)) and len(host) <= _LONGEST_NAME and not {host[0], host[-1]} & {"-"}
