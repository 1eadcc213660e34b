"""Versions change under load, behind a real proxy, and no request is lost: old server drained, then stopped.

In a cluster the endpoint is removed while the preStop pause runs, and SIGTERM comes after it; so here.
"""

import json
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from proxy import Proxy, Slot, needs_haproxy
from tiny_bundle import expected_images, tiny_bundle
from tritonclient.grpc.service_pb2 import ModelInferRequest

from troika.releases.bundle import Bundle
from troika.serving.triton import TritonServer

pytestmark = needs_haproxy

SEED, LABEL = 41, 3
PRE_STOP_SECONDS = 1.0
REQUESTS = 50_000
"""Over HTTP, and as many over gRPC. Counted, not timed: a busy machine takes longer, and tests the same."""
EXIT_SECONDS = 3.0
"""Connections that the proxy keeps open would keep a Triton for all of its exit time-out."""
BODY = {
    "inputs": [
        {"name": "seed", "datatype": "INT64", "shape": [1, 1], "data": [SEED]},
        {"name": "label", "datatype": "INT64", "shape": [1, 1], "data": [LABEL]},
    ],
    "outputs": [{"name": "image"}, {"name": "model_digest"}],
}
# wrk counts what comes back; the answers that are right are compared byte by byte.
LUA = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init() right_a, right_b, wrong, status_wrong = 0, 0, 0, 0 end
function response(status, headers, body)
  if status ~= 200 then status_wrong = status_wrong + 1
  elseif body == [==[{a}]==] then right_a = right_a + 1
  elseif body == [==[{b}]==] then right_b = right_b + 1
  else wrong = wrong + 1 end
end
function done(summary, latency, requests)
  local a, b, w, s = 0, 0, 0, 0
  for _, t in ipairs(threads) do
    a = a + t:get("right_a"); b = b + t:get("right_b"); w = w + t:get("wrong"); s = s + t:get("status_wrong")
  end
  local e = summary.errors
  io.write(string.format('\\n{{"a": %d, "b": %d, "wrong": %d, "failed": %d}}\\n', a, b, w,
    s + e.connect + e.read + e.write + e.timeout))
end
"""


class Outcome(NamedTuple):
    right: int
    wrong: int
    failed: int
    versions_seen: int
    errors: Any


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("versions")
    return [tiny_bundle(folder / name, note=name) for name in ("a", "b")]


@pytest.fixture(scope="module")
def load(bundles: list[Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the two load generators need: a request, and what each version answers to it."""
    folder = tmp_path_factory.mktemp("load")
    (folder / "answers").mkdir()
    message = ModelInferRequest(model_name="tiny")
    for name, value in (("seed", SEED), ("label", LABEL)):
        message.inputs.add(name=name, datatype="INT64", shape=[1, 1])
        message.raw_input_contents.append(struct.pack("<q", value))
    for name in ("image", "model_digest"):
        message.outputs.add(name=name)
    (folder / "request").write_bytes(message.SerializeToString())
    bodies = []
    expected = expected_images([SEED], [LABEL]).ravel().tolist()
    for name, bundle in zip("ab", bundles, strict=True):
        with TritonServer(bundle.folder, exit_seconds=0) as server:
            address = f"http://127.0.0.1:{server.state.http_port}/v2/models/tiny/infer"
            with urllib.request.urlopen(address, json.dumps(BODY).encode()) as answer:
                bodies.append(answer.read().decode())
            outputs = {output["name"]: output["data"] for output in json.loads(bodies[-1])["outputs"]}
            digest = bytes.fromhex(bundle.digest.removeprefix("sha256:"))
            assert outputs == {"image": expected, "model_digest": list(digest)}
            with grpc.insecure_channel(f"127.0.0.1:{server.state.grpc_port}") as channel:
                infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                answered = infer((folder / "request").read_bytes(), timeout=20)
            assert digest in answered
            assert bytes(expected) in answered
            (folder / "answers" / name).write_bytes(answered)
    (folder / "load.lua").write_text(LUA.format(body=json.dumps(BODY), a=bodies[0], b=bodies[1]))
    return folder


def swap_under_load(
    bundles: list[Bundle],
    load: Path,
    tmp_path: Path,
    *,
    swaps: int,
    requests: int,
    drained: bool,
    front: bool = False,
) -> tuple[Outcome, Outcome]:
    """What HTTP and gRPC clients got while the served version changed to and fro, at even numbers of requests."""
    options: dict[str, Any] = {"exit_seconds": EXIT_SECONDS, "front": front}
    stop = tmp_path / "stop"
    with Proxy(tmp_path) as proxy, ExitStack() as servers:
        old, old_slot = TritonServer(bundles[0].folder, **options), "a"
        running = servers.enter_context(ExitStack())
        running.enter_context(old)
        proxy.add("a", old)
        grpc_load = [sys.executable, str(Path(__file__).with_name("grpc_load.py")), str(proxy.grpc_port)]
        grpc_load += [str(load / "request"), str(load / "answers"), str(stop), "4"]
        wrk = ["wrk", "-t1", "-c4", "-d600s", "--timeout", "20s", "-s", str(load / "load.lua")]
        with (
            subprocess.Popen(grpc_load, stdout=subprocess.PIPE, text=True) as by_grpc,
            subprocess.Popen([*wrk, f"http://127.0.0.1:{proxy.http_port}/v2/models/tiny/infer"],
                             stdout=subprocess.PIPE, text=True) as by_http,
        ):  # fmt: skip
            try:
                for number in range(swaps):
                    _wait_for_requests(proxy, requests * (number + 1) // (swaps + 1))
                    new_slot: Slot = "b" if old_slot == "a" else "a"
                    new = TritonServer(bundles[(number + 1) % 2].folder, **options)
                    fresh = servers.enter_context(ExitStack())
                    fresh.enter_context(new)
                    _change(proxy, new_slot, new, old_slot, drained)
                    running.close()  # SIGTERM, and the wait for its end
                    if not drained:
                        proxy.remove(old_slot)
                    old_slot, running = new_slot, fresh
                _wait_for_requests(proxy, requests)
            finally:
                stop.touch()
                by_http.send_signal(signal.SIGINT)  # wrk then ends and counts
            http_said = by_http.communicate(timeout=60)[0]
            grpc_said = json.loads(by_grpc.communicate(timeout=60)[0])
    http = json.loads(http_said.splitlines()[-1])
    versions = (http["a"] > 0) + (http["b"] > 0)
    by_http_outcome = Outcome(http["a"] + http["b"], http["wrong"], http["failed"], versions, http_said)
    right, wrong, failed, seen, errors = (grpc_said[key] for key in ("right", "wrong", "failed", "seen", "errors"))
    return by_http_outcome, Outcome(right, wrong, failed, len(seen), errors)


def _wait_for_requests(proxy: Proxy, count: int) -> None:
    deadline = time.monotonic() + 300
    while proxy.requests() < count:
        assert time.monotonic() < deadline, f"no {count} requests in 300 s"
        time.sleep(0.1)


def _change(proxy: Proxy, new_slot: Slot, new: TritonServer, old_slot: Slot, drained: bool) -> None:
    proxy.add(new_slot, new)
    if drained:
        proxy.remove(old_slot)
        time.sleep(PRE_STOP_SECONDS)


def test_no_request_is_lost_while_versions_change(
    bundles: list[Bundle], load: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each version behind its front, as in a pod, whose connections end by age, too."""
    monkeypatch.setenv("TROIKA_FRONT_CONNECTION_SECONDS", "1")
    http, by_grpc = swap_under_load(
        bundles, load, tmp_path, swaps=4, requests=REQUESTS + 100, drained=True, front=True
    )
    print(f"right: {http.right} over HTTP, {by_grpc.right} over gRPC")
    assert (http.wrong, http.failed, by_grpc.wrong, by_grpc.failed) == (0, 0, 0, 0), (http, by_grpc)
    assert http.versions_seen == by_grpc.versions_seen == 2
    assert http.right >= REQUESTS
    assert by_grpc.right >= REQUESTS


def test_without_the_pause_requests_are_lost(bundles: list[Bundle], load: Path, tmp_path: Path) -> None:
    """The negative control: the proxy still sends requests to a server that was told to end."""
    http, by_grpc = swap_under_load(bundles, load, tmp_path, swaps=1, requests=5_000, drained=False)
    print(f"lost: {http.failed} over HTTP, {by_grpc.failed} over gRPC {by_grpc.errors}")
    assert http.failed + by_grpc.failed > 0
    assert (http.wrong, by_grpc.wrong) == (0, 0)
