"""What goes wrong between client and server, in the same words for both protocols."""

from urllib.parse import SplitResult

from troika.errors import DeadlineError, RequestError, ServerError, UnknownHostError, UnreachableError


class UnreadableAnswerError(Exception):
    """An answer has come that is not one of the protocol."""


def through(proxy: SplitResult | None) -> str:
    """Return what to say of the proxy that was asked, without its password; nothing where there is none."""
    if proxy is None:
        return ""
    host = proxy.netloc.rpartition("@")[2]
    return f"; asked was the proxy {host} of the environment, and no_proxy makes exceptions"


def late(address: str) -> DeadlineError:
    """Return the error for no answer in time."""
    return DeadlineError(f"{address} did not answer in time; give a larger timeout, or ask later")


def unknown_host(words: str, address: str) -> UnknownHostError:
    """Return the error for a name that stands for no address."""
    return UnknownHostError(
        f"the host of {address} has no address ({words}); check the name, and whether its name server answers"
    )


def unreachable(words: str, address: str, protocol: str) -> UnreachableError:
    """Return the error for a connection that could not be made, or was lost."""
    return UnreachableError(
        f"nothing answers {protocol} requests at {address} ({words}); start a server with "
        "`troika serve`, or check host and port (HTTP and gRPC have different ports)"
    )


def restricted(address: str) -> RequestError:
    """Return the error for a server that keeps the list of its models to itself."""
    return RequestError(f"{address} does not tell which models it has: name one with model=")


def unreadable(words: str, address: str) -> ServerError:
    """Return the error for an answer that is not one of the protocol."""
    return ServerError(f"{address} answers, but not as Triton does: {words}")
