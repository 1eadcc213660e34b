"""Whatever is sent, the server stays up, answers in time, says 4xx to what is wrong, and still makes images."""

import http.client
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("fuzzed") / "bundle")
    with TritonServer(bundle.folder, exit_seconds=0) as server:
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
TENSOR = st.fixed_dictionaries({"name": NAMES, "datatype": KINDS, "shape": SIZES | JSON, "data": NUMBERS | JSON})
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=4) | JSON},
    optional={
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=3) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "priority", "sequence_id", "x"]), JSON, max_size=3
        ),
        "id": JSON,
    },
)


@FEW
@given(request=REQUEST | JSON)
def test_json_of_any_kind(fuzzed: TritonServer, request: Any) -> None:
    """To a value of the wrong JSON type Triton's own parser says 500; it must not do more harm."""
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
    import socket

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
    assert send(fuzzed, "POST", "/v2/models/tiny/infer", json.dumps(head).encode(), {}) == 400
    still_works(fuzzed)


def test_the_log_tells_of_no_crash(fuzzed: TritonServer) -> None:
    text = Path(fuzzed.state.log).read_text(errors="replace")
    assert "Signal (" not in text
    assert "not healthy" not in text
