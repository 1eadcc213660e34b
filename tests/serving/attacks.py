"""Small requests that end or exhaust a bare Triton 2.51, each with a name; docs/serving-safety.md lists the same.

Most are from public advisories and reports; the names of those stand there.
"""

import gzip
import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from troika.serving.triton import TritonServer

MEBIBYTE = 2**20
PATH = "/v2/models/tiny/infer"
GRPC = "/inference.GRPCInferenceService/"
SECONDS = 60.0
REQUEST_SECONDS = 3
"""What the front is given for the head of a request, and for its body."""
Bare = Literal["ends", "takes memory", "waits", "answers", "refuses"]
"""What a bare Triton does: dies, takes memory out of proportion, waits as long as the other side likes, deals with
what the front does not let through, or refuses it too."""


@dataclass(frozen=True)
class Attack:
    """One request, or one connection."""

    name: str
    bare: Bare
    send: Callable[[TritonServer], str]
    """Return how it was answered: an HTTP status, the name of a gRPC status, or "closed"."""
    front: tuple[str, ...]
    """The answers that the front may give."""


def number(name: str, shape: Any = (1, 1), data: Any = (1,), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": list(shape), "data": list(data), **more}


def request(*, seed: Any = None, outputs: Any = None, **more: Any) -> bytes:
    inputs = [number("seed") if seed is None else seed, number("label")]
    return json.dumps({"inputs": inputs, "outputs": outputs or [{"name": "image"}], **more}).encode()


def post(server: TritonServer, body: bytes, headers: dict[str, str] | None = None, path: str = PATH) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.state.http_port, timeout=SECONDS)
    try:
        connection.request("POST", path, body, headers or {})
        return str(connection.getresponse().status)
    except (ConnectionError, http.client.HTTPException):
        # A server that has refused before all was sent may close; what it said can be lost with that.
        return "closed"
    finally:
        connection.close()


def raw(server: TritonServer, *parts: bytes, seconds: float = SECONDS) -> str:
    """Send bytes as they are and return the status of the first answer; "waits" if none comes."""
    with socket.create_connection(("127.0.0.1", server.state.http_port), timeout=SECONDS) as connection:
        said = b""
        with suppress(OSError):
            connection.sendall(b"".join(parts))
        connection.settimeout(seconds)
        try:
            said = connection.recv(4096)
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"
    return said.split()[1].decode() if said.startswith(b"HTTP/1.1 ") else "closed"


def drip(server: TritonServer, head: bytes, drop: bytes) -> str:
    """Send a byte a second until an answer comes; "waits" if none has come long after the front would have."""
    end = time.monotonic() + 3 * REQUEST_SECONDS
    with socket.create_connection(("127.0.0.1", server.state.http_port), timeout=1) as connection:
        connection.sendall(head)
        while time.monotonic() < end:
            try:
                said = connection.recv(4096)
                return said.split()[1].decode() if said else "closed"
            except TimeoutError:
                pass
            except OSError:
                return "closed"
            try:
                connection.sendall(drop)
            except OSError:
                return "closed"
    return "waits"


def chunked(*chunks: bytes) -> tuple[bytes, ...]:
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"


def message(shape: Any = (1, 1), content: bytes = b"\1" + b"\0" * 7) -> ModelInferRequest:
    asked = ModelInferRequest(model_name="tiny")
    for name in ("seed", "label"):
        asked.inputs.add(name=name, datatype="INT64", shape=list(shape) if name == "seed" else [1, 1])
        asked.raw_input_contents.append(content if name == "seed" else b"\1" + b"\0" * 7)
    asked.outputs.add(name="image")
    return asked


def classified(output: str, classes: int = 2) -> bytes:
    asked = message()
    asked.outputs[0].name = output
    asked.outputs[0].parameters["classification"].int64_param = classes
    return asked.SerializeToString()


def classified_otherwise() -> bytes:
    """The same key with a length in three bytes, behind 200,000 others."""
    output = b"\x12\x16\x0a\x8e\x80\x00classification\x12\x02\x10\x02\x0a\x0cmodel_digest"
    return message(content=bytes(200_000)).SerializeToString() + b"\x32%c%s" % (len(output), output)


def call(server: TritonServer, content: bytes, method: str = "ModelInfer", **options: Any) -> str:
    """The name of the gRPC status."""
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 2**20)]
    with grpc.insecure_channel(f"127.0.0.1:{server.state.grpc_port}", options=limits) as channel:
        path = method if method.startswith("/") else f"{GRPC}{method}"
        try:
            channel.unary_unary(path)(content, timeout=SECONDS, **options)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def nested(depth: int) -> bytes:
    inner = b"[" * depth + b"1" + b"]" * depth
    return b'{"inputs": [{"name": "seed", "datatype": "INT64", "shape": [1, 1], "data": ' + inner + b"}]}"


def spelled_otherwise() -> bytes:
    return request(seed=number("seed", [2**40, 1])).replace(b'"shape"', b'"sh\\u0061pe"')


REFUSED = ("400",)
TOO_LARGE = ("413", "closed")
TOO_LARGE_MESSAGE = ("INVALID_ARGUMENT", "CANCELLED", "UNAVAILABLE")
ATTACKS = [
    Attack("shape-2-40", "ends", lambda s: post(s, request(seed=number("seed", [2**40, 1]))), REFUSED),
    Attack("shape-2-61", "ends", lambda s: post(s, request(seed=number("seed", [2**61, 1]))), REFUSED),
    Attack("shape-one-number", "ends", lambda s: post(s, request(seed=number("seed", [2**40]))), REFUSED),
    Attack("shape-product", "ends", lambda s: post(s, request(seed=number("seed", [2**20, 2**20]))), REFUSED),
    Attack("shape-spelled-otherwise", "ends", lambda s: post(s, spelled_otherwise()), REFUSED),
    Attack("shape-twice", "answers", lambda s: post(s, request().replace(
        b'"shape": [1, 1]', b'"shape": [1, 1], "shape" \n : [ 1 , 99999 ]', 1)), REFUSED),
    # What stands behind a 0 the front's rules do not see, and Triton's parser does not either.
    Attack("shape-behind-a-0", "answers", lambda s: post(
        s, request(seed=number("seed", [2**40, 1])).replace(b"{", b'{"id": "\0", ', 1)), ("500",)),
    Attack("shape-2-27", "takes memory", lambda s: post(s, request(seed=number("seed", [2**27, 1]))), REFUSED),
    Attack("deep-json", "ends", lambda s: post(s, nested(100_000)), REFUSED),
    Attack("chunks-of-one-byte", "ends", lambda s: raw(s, *chunked(*[b" "] * 1_500_000)), TOO_LARGE),
    Attack("one-large-chunk", "takes memory", lambda s: raw(s, *chunked(b" " * 96 * MEBIBYTE)), TOO_LARGE),
    Attack("large-body", "takes memory", lambda s: post(s, b" " * 96 * MEBIBYTE), TOO_LARGE),
    Attack("large-body-announced", "waits", lambda s: raw(
        s, f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 700000000\r\n\r\n".encode(), b" " * 1000,
        seconds=2 * REQUEST_SECONDS), ("413",)),
    Attack("gzip-of-blanks", "takes memory", lambda s: post(
        s, gzip.compress(b" " * 96 * MEBIBYTE), {"Content-Encoding": "gzip"}), ("415",)),
    Attack("deflate", "answers", lambda s: post(s, request(), {"Content-Encoding": "deflate"}), ("415",)),
    Attack("length-and-chunks", "answers", lambda s: raw(
        s, chunked(request())[0].replace(b"Host: a", b"Host: a\r\nContent-Length: 5"), *chunked(request())[1:]),
        REFUSED),
    Attack("trailer", "waits", lambda s: raw(
        s, *chunked(request())[:-1], b"0\r\nX: a\r\n\r\n", seconds=2 * REQUEST_SECONDS), ("200",)),
    Attack("two-lengths", "answers", lambda s: raw(
        s, b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 2\r\n\r\n{}  " % PATH.encode()),
        REFUSED),
    Attack("large-head", "answers", lambda s: post(s, request(), {"X": "x" * 60_000}), ("400", "431")),
    Attack("many-headers", "answers", lambda s: post(s, request(), {f"X{i}": "x" for i in range(150)}), ("400",)),
    Attack("slow-head", "waits", lambda s: drip(s, b"POST / HTTP/1.1\r\n", b"A"), ("408", "closed")),
    Attack("slow-body", "waits", lambda s: drip(
        s, f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n".encode(), b" "), ("408",)),
    Attack("many-outputs", "answers", lambda s: post(s, request(outputs=[{"name": "image"}] * 5000)), REFUSED),
    Attack("classification", "answers", lambda s: post(s, request(
        outputs=[{"name": "model_digest", "parameters": {"classification": 2}}])), REFUSED),
    Attack("generate", "answers", lambda s: post(
        s, b'{"seed": 1, "label": 1}', path="/v2/models/tiny/generate"), ("403",)),
    Attack("index", "refuses", lambda s: post(s, b"{}", path="/v2/repository/index"), ("403",)),
    Attack("shared-memory", "refuses", lambda s: post(
        s, b'{"key": "/x", "byte_size": 8}', path="/v2/systemsharedmemory/region/x/register"), ("403",)),
    Attack("another-path", "refuses", lambda s: post(s, b"{}", path="/v2/models/tiny/../../index"), ("403",)),
    Attack("grpc-large-message", "takes memory", lambda s: call(
        s, message(content=b" " * 96 * MEBIBYTE).SerializeToString()), TOO_LARGE_MESSAGE),
    Attack("grpc-gzip-of-blanks", "takes memory", lambda s: call(
        s, message(content=b" " * 96 * MEBIBYTE).SerializeToString(), compression=grpc.Compression.Gzip),
        TOO_LARGE_MESSAGE),
    Attack("grpc-large-metadata", "refuses", lambda s: call(
        s, message().SerializeToString(), metadata=[(f"k{i}", "v" * 1000) for i in range(30)]),
        ("INVALID_ARGUMENT", "UNAVAILABLE")),
    Attack("grpc-classification", "answers", lambda s: call(s, classified("model_digest")), ("INVALID_ARGUMENT",)),
    Attack("grpc-classification-padded", "refuses", lambda s: call(s, classified_otherwise()),
           ("INVALID_ARGUMENT",)),
    Attack("grpc-stream", "answers", lambda s: call(s, b"", "ModelStreamInfer"), ("PERMISSION_DENIED",)),
    Attack("grpc-index", "refuses", lambda s: call(s, b"", "RepositoryIndex"), ("PERMISSION_DENIED",)),
    Attack("grpc-shared-memory", "refuses", lambda s: call(s, b"", "SystemSharedMemoryStatus"),
           ("PERMISSION_DENIED",)),
    Attack("grpc-reflection", "refuses", lambda s: call(
        s, b"", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"), ("PERMISSION_DENIED",)),
]  # fmt: skip
