"""Where a test's client finds a test's server."""

from typing import Literal

from troika.serving.triton import TritonServer

Protocol = Literal["grpc", "http"]


def url(server: TritonServer, protocol: Protocol) -> str:
    return f"127.0.0.1:{server.state.grpc_port if protocol == 'grpc' else server.state.http_port}"
