"""Requests that no client library would send: any bytes as a header's name and value."""

import socket
import struct
from contextlib import suppress

_SHARED_MEMORY = "SystemSharedMemoryStatus"


def http_status(port: int, name: bytes, value: bytes) -> bytes:
    """The status of the answer to a question about shared memory; empty where there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = b"GET /v2/systemsharedmemory/status HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(head + name + b": " + value + b"\r\nContent-Length: 0\r\n\r\n")
        with suppress(OSError):
            return connection.recv(4096).partition(b" ")[2][:3]
    return b""


def begun_messages(port: int, count: int, size: int) -> socket.socket:
    """Open a connection with so many gRPC requests, each with `size` bytes of a message that is never whole."""
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x")]
    headers += [(b":path", b"/inference.GRPCInferenceService/ModelInfer"), (b"content-type", b"application/grpc")]
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)
    content = struct.pack(">BI", 0, 200_000) + bytes(size - 5)
    parts = [content[start : start + 2**14] for start in range(0, size, 2**14)]
    connection = socket.create_connection(("127.0.0.1", port), timeout=1)
    with suppress(OSError):  # a server may take no more after some
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        for stream in range(1, 2 * count, 2):
            connection.sendall(
                _frame(1, 4, stream, block) + b"".join(_frame(0, 0, stream, part) for part in parts)
            )
    return connection


def grpc_status(port: int, name: bytes, value: bytes) -> bytes:
    """The same over gRPC, by hand-made HTTP/2 frames; libraries refuse to send control characters."""
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b"te", b"trailers")]
    headers += [(b":path", f"/inference.GRPCInferenceService/{_SHARED_MEMORY}".encode())]
    headers += [(b"content-type", b"application/grpc"), (name, value)]
    block = b"".join(b"\0" + _text(one) + _text(other) for one, other in headers)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
        connection.sendall(preface + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5)))
        got = b""
        with suppress(OSError):
            while b"grpc-status" not in got and (more := connection.recv(65536)):
                got += more
    length, *_ = got.partition(b"grpc-status")[2][:1] or b"\0"
    return got.partition(b"grpc-status")[2][1 : 1 + length]


def _text(content: bytes) -> bytes:
    """As HPACK has it: its length, then what it is."""
    assert len(content) < 127
    return bytes([len(content)]) + content


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content
