"""Requests that the model refuses are counted by the model: to Triton's own counters they are successes."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tiny_bundle import tiny_bundle

from troika.serving.triton import ServerState, TritonServer

REFUSED, ANSWERED = "troika_model_refused_total", "nv_inference_request_success"


def counts(state: ServerState) -> dict[str, float]:
    """Return the values of both counters, over all instances and versions of the model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{state.metrics_port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.labels.get("model") == "tiny"]
    # The parser gives each counter the end that Triton leaves out.
    names = {name: {name, f"{name}_total"} for name in (REFUSED, ANSWERED)}
    return {name: sum(s.value for s in samples if s.name in ends) for name, ends in names.items()}


def ask(state: ServerState, seed: int, label: int) -> int:
    """Return the HTTP status of one request."""
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [1, 1], "data": [value]}
        for name, value in (("seed", seed), ("label", label))
    ]
    url = f"http://127.0.0.1:{state.http_port}/v2/models/tiny/infer"
    try:
        with urllib.request.urlopen(url, json.dumps({"inputs": inputs}).encode(), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_model_counts_what_it_refuses(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        before = counts(server.state)
        assert before[REFUSED] == 0  # there before the first refusal, so that a rate can be taken
        statuses = [ask(server.state, seed, label) for seed in range(8) for label in (0, -1, 10**6)]
        after = counts(server.state)
    assert statuses == [200, 400, 400] * 8
    assert after[REFUSED] == 16
    # Why the model counts them: Triton tells nothing of it.
    assert after[ANSWERED] - before[ANSWERED] == 24
