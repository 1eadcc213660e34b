"""Who has no key can ask for images and what the model is, and nothing else; over both protocols."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tiny_bundle import tiny_bundle
from tritonclient.utils import InferenceServerException

from troika.serving.triton import TritonServer

KEY = "the-key-of-this-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("restricted")
    bundle = tiny_bundle(folder / "bundle")
    options = {"admin_key": KEY, "state_file": folder / "state.json", "log_file": folder / "log"}
    with TritonServer(bundle.folder, exit_seconds=0, **options) as running:  # type: ignore[arg-type]
        yield running


def http(server: TritonServer, method: str, path: str, key: str | None = None, body: Any = None) -> int:
    """Status of a request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.state.http_port}/v2/{path}".rstrip("/"),
        data=json.dumps(body or {}).encode() if method == "POST" else None,
        headers={"troika-admin": key} if key else {},
        method=method,
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


CLOSED_HTTP = [
    ("POST", "repository/index"),
    ("POST", "repository/models/tiny/load"),
    ("POST", "repository/models/tiny/unload"),
    ("GET", "systemsharedmemory/status"),
    ("POST", "systemsharedmemory/region/x/register"),
    ("POST", "systemsharedmemory/unregister"),
    ("GET", "cudasharedmemory/status"),
    ("GET", "models/tiny/stats"),
    ("GET", "models/stats"),
    ("GET", "trace/setting"),
    ("POST", "trace/setting"),
    ("GET", "logging"),
    ("POST", "logging"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED_HTTP)
def test_management_over_http_needs_the_key(server: TritonServer, method: str, path: str) -> None:
    assert http(server, method, path) == 403
    assert http(server, method, path, "another") == 403
    assert http(server, method, path, KEY) != 403  # The control: with the key Triton looks at the request itself.


CLOSED_GRPC: list[Callable[[Any, Any], Any]] = [
    lambda client, headers: client.get_model_repository_index(headers=headers),
    lambda client, headers: client.load_model("tiny", headers=headers),
    lambda client, headers: client.unload_model("tiny", headers=headers),
    lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    lambda client, headers: client.register_system_shared_memory("x", "/x", 8, headers=headers),
    lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    lambda client, headers: client.get_inference_statistics("tiny", headers=headers),
    lambda client, headers: client.get_trace_settings(headers=headers),
    lambda client, headers: client.update_trace_settings(settings={}, headers=headers),
    lambda client, headers: client.get_log_settings(headers=headers),
    lambda client, headers: client.update_log_settings({"log_info": False}, headers=headers),
]


@pytest.mark.parametrize("number", range(len(CLOSED_GRPC)))
def test_management_over_grpc_needs_the_key(server: TritonServer, number: int) -> None:
    ask = CLOSED_GRPC[number]
    with triton.InferenceServerClient(f"127.0.0.1:{server.state.grpc_port}") as client:
        for headers in (None, {"triton-grpc-protocol-troika-admin": "another"}):
            with pytest.raises(InferenceServerException, match="restricted"):
                ask(client, headers)
        try:
            ask(client, {"triton-grpc-protocol-troika-admin": KEY})
        except InferenceServerException as error:
            assert "restricted" not in str(error)  # noqa: PT017 - it may fail, but not for want of a key


@pytest.mark.parametrize(
    "path", ["health/live", "health/ready", "", "models/tiny", "models/tiny/ready", "models/tiny/config"]
)
def test_what_clients_need_is_open(server: TritonServer, path: str) -> None:
    assert http(server, "GET", path) == 200


def test_the_key_is_in_no_file(server: TritonServer) -> None:
    folder = Path(server.state.log).parent
    assert (folder / "state.json").exists()
    for path in (folder / "state.json", folder / "log"):
        assert KEY not in path.read_text()
