"""The queries of canary and autoscaler, by Prometheus' own evaluator, and what is decided from their answers."""

import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import MANIFESTS, Object, render_objects

NAMESPACE = "troika-production"
PRODUCTION = MANIFESTS / "serving" / "overlays" / "production"
ARGUMENTS = {"namespace": NAMESPACE, "canary-hash": "new", "stable-hash": "old"}
MINUTES = 12
Series = dict[str, float]
"""Metric -> how much it grows in a minute."""


@pytest.fixture(scope="session")
def things() -> list[Object]:
    return render_objects(PRODUCTION)


@pytest.fixture(scope="session")
def analysis(things: list[Object]) -> dict[str, Any]:
    (template,) = [t for t in things if (t["kind"], t["metadata"]["name"]) == ("AnalysisTemplate", "canary")]
    return {metric["name"]: metric for metric in template["spec"]["metrics"]}


@pytest.fixture(scope="session")
def trigger(things: list[Object]) -> dict[str, Any]:
    (scaled,) = [t for t in things if t["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    return trigger  # type: ignore[no-any-return]


def pods(
    requests: float,
    failures: float = 0.0,
    micros: float = 2000.0,
    queue: float = 100.0,
    *,
    cancelled: float = 0.0,
    refused: float = 0.0,
) -> Series:
    """Return the series of pods that take so many requests in a minute, each so long.

    Shares of them fail, are given up by their clients, and are refused by the model (successes to Triton).
    """
    good = requests * (1 - failures - cancelled)
    return {
        'nv_inference_request_success{reason=""}': good,
        'nv_inference_request_failure{reason="REJECTED"}': requests * failures,
        'nv_inference_request_failure{reason="OTHER"}': 0,
        'nv_inference_request_failure{reason="CANCELED"}': requests * cancelled,
        'troika_model_refused_total{version="1"}': requests * refused,
        'nv_inference_request_duration_us{reason=""}': good * micros,
        'nv_inference_queue_duration_us{reason=""}': good * queue,
    }


def evaluate(folder: Path, cases: list[tuple[dict[str, Series], str, float | None]]) -> None:
    """Fail unless Prometheus answers each query over the pods' series (by hash) with the number, or nothing."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have promtool (Debian: prometheus)")
        pytest.skip("promtool is not installed (Debian: prometheus)")
    tests = []
    for by_pods, query, answer in cases:
        series = [
            {
                "series": metric.replace(
                    "{",
                    f'{{namespace="{NAMESPACE}",rollouts_pod_template_hash="{pod}",model="digits",pod="{pod}",',
                ),
                "values": f"128+{growth}x{MINUTES}",  # the warm-up has been counted before the first request
            }
            for pod, growths in by_pods.items()
            for metric, growth in growths.items()
        ]
        # In millionths, since neither side's sums are exact.
        expected = [] if answer is None else [{"labels": "{}", "value": round(answer * 1e6)}]
        test = {"expr": f"round(({query}) * 1e6)", "eval_time": f"{MINUTES}m", "exp_samples": expected}
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": [test]})
    (folder / "tests.yaml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def query_of(metric: Any) -> str:
    text: str = metric["provider"]["prometheus"]["query"]
    return re.sub(r"\{\{args\.([\w-]+)\}\}", lambda match: ARGUMENTS[match[1]], text)


def passes(metric: Any, answer: float | None, minimum: int = 200) -> bool:
    """What Argo Rollouts makes of an answer; None: Prometheus has none."""
    condition = metric["successCondition"].replace("{{args.minimum-requests}}", str(minimum))
    python = condition.replace("&&", "and").replace("!isNaN", "not isnan")
    assert re.fullmatch(r"[\w\s.()\[\]=<>]+", python), python
    result = [] if answer is None else [answer]
    return bool(eval(python, {"__builtins__": {}}, {"len": len, "isnan": math.isnan, "result": result}))  # noqa: S307


HEALTHY = {"new": pods(100), "old": pods(900)}
UNCOUNTED = {series: value for series, value in pods(900).items() if "refused" not in series}
METRICS = ("requests", "failures", "refusals", "slowdown")
NOBODY_ASKED = {"new": pods(0), "old": pods(900)}
# What is shown, whom Prometheus sees, metric, its answer (None: nothing), and whether the canary goes on.
CANARY: list[tuple[str, dict[str, Series], str, float | None, bool]] = [
    ("healthy", HEALTHY, "requests", 500, True),
    ("healthy", HEALTHY, "failures", 0, True),
    ("healthy", HEALTHY, "slowdown", 2000 - 1.5 * 2000, True),
    ("too few requests", {"new": pods(39), "old": pods(900)}, "requests", 195, False),
    ("enough, though all fail", {"new": pods(100, failures=1.0), "old": pods(900)}, "requests", 500, True),
    ("fails more often", {"new": pods(100, failures=0.02), "old": pods(900)}, "failures", 0.02, False),
    ("all fail", {"new": pods(100, failures=1.0), "old": pods(900)}, "failures", 1, False),
    ("all fail alike", {"new": pods(100, failures=0.02), "old": pods(900, failures=0.02)}, "failures", 0, True),
    ("is slower", {"new": pods(100, micros=20000), "old": pods(900)}, "slowdown", 17000, False),
    ("all are slow", {"new": pods(100, micros=20000), "old": pods(900, micros=20000)}, "slowdown", -10000, True),
    ("stable pods have no traffic", {"new": pods(100), "old": pods(0)}, "failures", 0, True),
    ("clients give up", {"new": pods(100, cancelled=0.01), "old": pods(900)}, "failures", 0, True),
    ("given up does not count", {"new": pods(100, cancelled=0.7), "old": pods(900)}, "requests", 150, False),
    ("healthy", HEALTHY, "refusals", 0, True),
    ("refuses everything", {"new": pods(100, refused=1.0), "old": pods(900)}, "failures", 0, True),
    ("refuses everything", {"new": pods(100, refused=1.0), "old": pods(900)}, "refusals", 1, False),
    ("all refuse alike", {"new": pods(100, refused=0.3), "old": pods(900, refused=0.3)}, "refusals", 0, True),
    ("the old bundle does not count", {"new": pods(100), "old": UNCOUNTED}, "refusals", 0, True),
    ("the new bundle does not count", {"new": UNCOUNTED, "old": pods(900)}, "refusals", None, False),
    *(("no canary is seen", {"old": pods(900)}, m, None, False) for m in METRICS),
    *(("nothing is seen", {}, m, None, False) for m in METRICS),
    ("nobody asked", NOBODY_ASKED, "requests", 0, False),
]  # fmt: skip


def test_the_canary_goes_on_or_back(analysis: dict[str, Any], tmp_path: Path) -> None:
    evaluate(tmp_path, [(seen, query_of(analysis[metric]), answer) for _, seen, metric, answer, _ in CANARY])
    decided = {(what, metric): passes(analysis[metric], answer) for what, _, metric, answer, _ in CANARY}
    assert decided == {(what, metric): goes_on for what, _, metric, _, goes_on in CANARY}


def test_a_canary_that_nobody_asks_has_no_shares_and_fails(analysis: dict[str, Any], tmp_path: Path) -> None:
    """0/0 is NaN, which alone differs from itself."""
    for metric in ("failures", "refusals", "slowdown"):
        query = query_of(analysis[metric])
        evaluate(tmp_path, [(NOBODY_ASKED, f"({query}) == ({query})", None), (NOBODY_ASKED, f"count({query})", 1)])
        assert not passes(analysis[metric], math.nan)


def test_each_metric_fails_closed(analysis: dict[str, Any]) -> None:
    for metric in analysis.values():
        assert metric["failureLimit"] == 0
        assert metric["consecutiveErrorLimit"] <= 4
        assert "inconclusiveLimit" not in metric
        assert "failureCondition" not in metric  # what does not succeed has failed
        assert metric["initialDelay"] == "6m"
        assert set(re.findall(r"\[(\d+)m\]", metric["provider"]["prometheus"]["query"])) == {"5"}


def test_the_autoscaler_sees_the_mean_time_in_the_queue(trigger: dict[str, Any], tmp_path: Path) -> None:
    query, threshold = trigger["metadata"]["query"], float(trigger["metadata"]["threshold"])
    busy = {"a": pods(6000, queue=1000), "b": pods(600, queue=100_000)}
    idle = {"a": pods(0), "b": pods(0)}
    evaluate(
        tmp_path,
        [
            (busy, query, (6000 * 1000 + 600 * 100_000) / 6600),  # 10 ms; the mean of the pods' means is 50 ms
            ({"a": pods(6000, queue=1000)}, query, 1000),
            (idle, query, 0),
            ({}, query, None),  # an error for KEDA, and so the fallback
        ],
    )
    assert 1000 < threshold < 10_000
    assert trigger["metricType"] == "Value"
    assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_a_wrong_number_is_noticed(analysis: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="expr"):
        evaluate(tmp_path, [(HEALTHY, query_of(analysis["requests"]), 501)])
