"""Whatever is sent, the server stays up, answers in time, says 4xx to what is wrong, and still makes images."""

import gzip
import http.client
import json
import math
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from proxy import needs_haproxy
from tiny_bundle import expected_images, tiny_bundle
from tritonclient.grpc.service_pb2 import ModelInferRequest

from troika.serving.client import Client
from troika.serving.triton import TritonServer

ANSWER_SECONDS = 10
ANSWERS = {200, 500, *range(400, 500)}
FEW = settings(
    max_examples=120,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", params=["bare", pytest.param("front", marks=needs_haproxy)])
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A bare Triton, and one behind the front; what ends the bare one is in attacks.py, and not sent here."""
    bundle = tiny_bundle(tmp_path_factory.mktemp("fuzzed") / "bundle")
    with TritonServer(bundle.folder, exit_seconds=0, front=request.param == "front") as server:
        yield server
        still_works(server)


def still_works(server: TritonServer) -> None:
    """The same process, ready, with the right image."""
    assert server.state.alive()
    with Client(f"127.0.0.1:{server.state.http_port}", "http", model="tiny", timeout=10, retries=0) as client:
        seed = time.monotonic_ns() % 2**40  # not one that lies in the cache
        assert (client.generate(2, seed=seed, labels=4).images == expected_images([seed, seed + 1], [4, 4])).all()


def send(server: TritonServer, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    """Status of an answer; 0 where the server closes the connection without one, as it may on what is no HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", server.state.http_port, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["seed", "label", "latent", "image", "", "other"])
KINDS = st.sampled_from(["INT64", "FP32", "UINT8", "BYTES", "BOOL", "INT32", "NONE", ""])
SIZES = st.lists(st.integers(-3, 70) | st.sampled_from([2**31, 2**62, -(2**62)]), max_size=4)
NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=3), max_size=6)
TENSOR = st.fixed_dictionaries(
    {"name": NAMES, "datatype": KINDS, "shape": SIZES | JSON},
    optional={"data": NUMBERS | JSON, "parameters": st.deferred(lambda: PARAMETERS)},
)
OUTPUTS = NAMES | st.sampled_from(["model_digest", "seed_used", "png", "png_size"])
KEYS = ["timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data_output", "x"]
KEYS += ["classification", "binary_data", "binary_data_size", "headers", "triton_enable_empty_final_response"]
KEYS += ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"]
PARAMETERS = st.dictionaries(st.sampled_from(KEYS), JSON | st.integers(0, 2**63), max_size=3)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=4) | JSON},
    optional={
        "outputs": st.lists(
            st.fixed_dictionaries({"name": OUTPUTS}, optional={"parameters": PARAMETERS}), max_size=3
        )
        | JSON,
        "parameters": PARAMETERS,
        "id": JSON,
    },
)


def claims_too_much(thing: Any) -> bool:
    """Whether there is a shape for which Triton takes more memory than there is."""
    if isinstance(thing, list):
        return any(map(claims_too_much, thing))
    if not isinstance(thing, dict):
        return False
    shape = thing.get("shape")
    sizes = [abs(size) for size in shape if isinstance(size, int)] if isinstance(shape, list) else []
    return math.prod(max(size, 1) for size in sizes) > 2**20 or any(map(claims_too_much, thing.values()))


@FEW
@given(request=REQUEST | JSON)
def test_json_of_any_kind(fuzzed: TritonServer, request: Any) -> None:
    """To a value of the wrong JSON type Triton's own parser says 500; it must not do more harm."""
    # By name in attacks.py: bare, this ends Triton.
    assume(fuzzed.front is not None or not claims_too_much(request))
    assert send(fuzzed, "POST", "/v2/models/tiny/infer", json.dumps(request).encode(), {}) in ANSWERS


ROWS = st.integers(0, 3)


@FEW
@given(data=st.data(), rows=ROWS)
def test_numbers_and_shapes_of_any_kind_are_called_wrong_by_name(
    fuzzed: TritonServer, data: st.DataObject, rows: int
) -> None:
    """Never 500, as long as Triton's own parser finds values of the named type, as many as the shape says."""
    kinds = {"seed": st.integers(-(2**63), 2**63 - 1), "label": st.integers(-20, 20)}
    kinds["latent"] = st.floats(-1e30, 1e30)  # type: ignore[assignment]
    inputs = []
    for name in data.draw(st.sets(st.sampled_from(sorted(kinds)), min_size=1)):
        shape = data.draw(
            st.just([rows, 2 if name == "latent" else 1]) | st.lists(st.integers(0, 5), min_size=1, max_size=3)
        )
        count = math.prod(shape)
        values = data.draw(st.lists(kinds[name], min_size=count, max_size=count))
        kind = data.draw(st.sampled_from(["FP32", "FP64"] if name == "latent" else ["INT64", "FP32"]))
        inputs.append({"name": name, "datatype": kind, "shape": shape, "data": values})
    status = send(fuzzed, "POST", "/v2/models/tiny/infer", json.dumps({"inputs": inputs}).encode(), {})
    assert status == 200 or 400 <= status < 500, (status, inputs)


@FEW
@given(
    body=st.binary(max_size=300),
    length=st.integers(-10, 400)
    | st.sampled_from([2**31, 2**63, -(2**63), 2**64])
    | st.text("0123456789abc-", max_size=6),
)
def test_binary_bodies_with_any_header_length(fuzzed: TritonServer, body: bytes, length: Any) -> None:
    good = {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
            for name in ("seed", "label")
        ]
    }
    for content in (body, json.dumps(good).encode() + body):
        headers = {"Inference-Header-Content-Length": str(length)}
        status = send(fuzzed, "POST", "/v2/models/tiny/infer", content, headers)
        assert status in ANSWERS, (status, content, length)


def test_a_good_binary_body_is_one(fuzzed: TritonServer) -> None:
    """The control of the test above."""
    head = json.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "INT64", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
                for name in ("seed", "label")
            ]
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert send(fuzzed, "POST", "/v2/models/tiny/infer", head + struct.pack("<qq", 5, 3), headers) == 200


GOOD = {
    "inputs": [{"name": name, "datatype": "INT64", "shape": [1, 1], "data": [1]} for name in ("seed", "label")],
    "outputs": [{"name": "seed_used"}],
}


def said(server: TritonServer, *parts: bytes) -> bytes:
    """Send bytes as they are; what came back in time, nothing if the connection was closed."""
    with socket.create_connection(("127.0.0.1", server.state.http_port), timeout=ANSWER_SECONDS) as connection:
        try:
            connection.sendall(b"".join(parts))
            return connection.recv(4096)
        except ConnectionError:
            return b""


@FEW
@given(data=st.data(), spoilt=st.booleans())
def test_bodies_in_chunks_of_any_size(fuzzed: TritonServer, data: st.DataObject, spoilt: bool) -> None:
    """A right one is answered in whatever pieces it comes; a wrong one is refused, or its connection closed."""
    rest, chunks = json.dumps(GOOD).encode(), []
    while rest:
        size = data.draw(st.integers(1, 40))
        chunks.append(rest[:size])
        rest = rest[size:]
    sizes = [b"%x" % len(chunk) for chunk in chunks]
    if spoilt:
        number = data.draw(st.integers(0, len(sizes) - 1))
        wrong = [b"", b"-1", b"zz", b"0x5", b"ffffffffffffffff", b"7fffffffffffffff", b"1 1", b"0" * 30 + b"1ffff"]
        sizes[number] = data.draw(st.sampled_from(wrong))
    # For what follows the last chunk a bare Triton waits for ever.
    endings = [b"0\r\n\r\n"] if fuzzed.front is None else [b"0\r\n\r\n", b"0\r\nX-Trailer: a\r\n\r\n"]
    ending = data.draw(st.sampled_from(endings))
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [b"%s\r\n%s\r\n" % pair for pair in zip(sizes, chunks, strict=True)]
    if spoilt:
        pieces.append(b"\r\n\r\n" * 4)
    answer = said(fuzzed, head, *pieces, ending) if not spoilt else broken(fuzzed, head, *pieces, ending)
    if not spoilt:
        assert answer.startswith(b"HTTP/1.1 200"), (answer, pieces)


def broken(server: TritonServer, *parts: bytes) -> bytes:
    """The same, for what a server may wait for the rest of: the other side hangs up."""
    with socket.create_connection(("127.0.0.1", server.state.http_port), timeout=ANSWER_SECONDS) as connection:
        try:
            connection.sendall(b"".join(parts))
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
        except (ConnectionError, TimeoutError):
            return b""


ENCODINGS = ["gzip", "deflate", "br", "identity", "gzip, gzip", "x" * 500, ""]


@FEW
@given(
    encoding=st.sampled_from(ENCODINGS),
    accept=st.sampled_from([*ENCODINGS, None]),
    body=st.sampled_from([json.dumps(GOOD).encode(), gzip.compress(json.dumps(GOOD).encode()), b"", b"\x1f\x8b"]),
    cut=st.integers(0, 30),
)
def test_bodies_of_any_encoding(
    fuzzed: TritonServer, encoding: str, accept: str | None, body: bytes, cut: int
) -> None:
    headers = {"Content-Encoding": encoding, **({"Accept-Encoding": accept} if accept is not None else {})}
    assert send(fuzzed, "POST", "/v2/models/tiny/infer", body[: len(body) - cut], headers) in {*ANSWERS, 501}


@FEW
@given(
    metadata=st.dictionaries(
        st.sampled_from(
            ["grpc-encoding", "te", "x", "x-bin", "triton-grpc-protocol-troika-admin", "grpc-timeout-x"]
        ),
        st.text("abcz019-/,;=", max_size=300),
        max_size=4,
    ),
    compression=st.sampled_from([grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate]),
)
def test_grpc_metadata_of_any_kind(
    fuzzed: TritonServer, metadata: dict[str, str], compression: grpc.Compression
) -> None:
    message = ModelInferRequest(model_name="tiny")
    for name in ("seed", "label"):
        message.inputs.add(name=name, datatype="INT64", shape=[1, 1])
        message.raw_input_contents.append(struct.pack("<q", 1))
    pairs = [(key, value.encode() if key.endswith("-bin") else value) for key, value in metadata.items()]
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{fuzzed.state.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            infer(message.SerializeToString(), timeout=ANSWER_SECONDS, metadata=pairs, compression=compression)
        except grpc.RpcError as error:
            codes.add(error.code())  # type: ignore[attr-defined]
    assert not codes & {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    path=st.text("abz019/._-%?&=~v2", max_size=40).map(lambda text: f"/{text}")
    | st.sampled_from(
        ["/v2/models/tiny", "/v2/models/../../etc/passwd", "/v2/models//infer", "/v2/models/tiny/versions/9/infer"]
    ),
)
def test_any_method_and_path(fuzzed: TritonServer, method: str, path: str) -> None:
    status = send(fuzzed, method, path, b"{}" if method in {"POST", "PUT"} else b"", {})
    assert status < 500 or status == 501, (status, method, path)


@FEW
@given(data=st.data())
def test_grpc_requests_of_any_kind(fuzzed: TritonServer, data: st.DataObject) -> None:
    message = ModelInferRequest(model_name=data.draw(st.sampled_from(["tiny", "", "other"])))
    for _ in range(data.draw(st.integers(0, 4))):
        sizes = [max(min(size, 2**63 - 1), -(2**63)) for size in data.draw(SIZES)]
        message.inputs.add(name=data.draw(NAMES), datatype=data.draw(KINDS), shape=sizes)
    for _ in range(data.draw(st.integers(0, 4))):
        message.raw_input_contents.append(data.draw(st.binary(max_size=64)))
    for name in data.draw(st.lists(NAMES, max_size=3)):
        message.outputs.add(name=name)
    if data.draw(st.booleans()):
        message.parameters["timeout"].int64_param = data.draw(st.integers(-(2**63), 2**63 - 1))
    content = message.SerializeToString()
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=20))
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{fuzzed.state.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            infer(content, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            codes.add(error.code())  # type: ignore[attr-defined]
    assert not codes & {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}


def test_a_body_that_never_ends_does_not_hold_the_others(fuzzed: TritonServer) -> None:
    held = []
    for _ in range(20):
        half = socket.create_connection(("127.0.0.1", fuzzed.state.http_port))
        half.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        held.append(half)
    still_works(fuzzed)
    for half in held:
        half.close()
    still_works(fuzzed)


def test_a_request_of_many_megabytes_is_refused(fuzzed: TritonServer) -> None:
    rows = 1_000_000
    head = {"inputs": [{"name": "seed", "datatype": "INT64", "shape": [rows, 1], "data": [1] * rows}]}
    # The front refuses it before it is all sent, and closes the connection then.
    assert send(fuzzed, "POST", "/v2/models/tiny/infer", json.dumps(head).encode(), {}) in {400, 413, 0}
    still_works(fuzzed)


def test_the_log_tells_of_no_crash(fuzzed: TritonServer) -> None:
    text = Path(fuzzed.state.log).read_text(errors="replace")
    assert "Signal (" not in text
    assert "not healthy" not in text
