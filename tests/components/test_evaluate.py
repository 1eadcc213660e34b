"""A verdict is about one bundle and the dataset that it was trained on, and holds all that was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_steps import Paths, tiny_params

from components.evaluate import evaluate
from troika.datasets.contract import Dataset
from troika.datasets.writing import write_dataset
from troika.errors import BundleError, DatasetError, ParameterError
from troika.folders import sha256_file
from troika.quality.reference import Reference
from troika.releases.bundle import Bundle, seal

LIMITS = tiny_params("evaluate").limits


def judge(folder: Path, bundle: Path, dataset: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The decision and the verdict."""
    files = [folder / name for name in ("verdict.json", "reference.npz", "evaluation.html", "metrics.json")]
    decision = evaluate(bundle, dataset, *files, tiny_params("evaluate", **changes))
    return decision, json.loads(files[0].read_text(), parse_constant=pytest.fail)


def test_the_verdict_holds_identities_figures_and_parameters(made: Paths) -> None:
    verdict = json.loads(made.verdict.read_text(), parse_constant=pytest.fail)
    assert set(verdict) == {
        "schema_version", "model", "bundle_digest", "dataset_content_hash", "evaluator_digest", "reference_sha256",
        "code_commit", "decision", "reasons", "measures", "params",
    }  # fmt: skip
    bundle = Bundle.open(made.bundle)
    assert (verdict["schema_version"], verdict["model"], verdict["decision"]) == (1, "tiny", "promote")
    assert verdict["bundle_digest"] == bundle.digest
    assert verdict["dataset_content_hash"] == bundle.lineage["dataset"]["content_hash"]
    assert verdict["evaluator_digest"].startswith("sha256:")
    assert verdict["reference_sha256"] == sha256_file(made.reference)
    assert Reference.from_bytes(made.reference.read_bytes()).evaluator.digest == verdict["evaluator_digest"]
    assert verdict["reasons"] == []
    assert verdict["params"] == tiny_params("evaluate").model_dump(exclude_none=True)
    measures = {entry["name"]: entry for entry in verdict["measures"]}
    assert set(LIMITS) <= set(measures)
    for name, entry in measures.items():
        assert set(entry) == {"name", "value", "low", "high", "floor", "limit", "result", "note"}
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert (entry["result"], entry["limit"]) == (
            ("passed", str(LIMITS[name])) if name in LIMITS else ("reported", None)
        )


def test_metrics_are_the_figures_by_name(made: Paths) -> None:
    verdict = json.loads(made.verdict.read_text())
    metrics = json.loads((made.folder / "metrics.json").read_text())
    assert metrics.pop("promoted") is True
    assert metrics == {entry["name"]: entry["value"] for entry in verdict["measures"]}


def test_judging_again_gives_the_same_verdict(made: Paths, tmp_path: Path) -> None:
    judge(tmp_path, made.bundle, made.dataset)
    assert (tmp_path / "verdict.json").read_bytes() == made.verdict.read_bytes()
    assert (tmp_path / "evaluation.html").read_bytes() == (made.folder / "evaluation.html").read_bytes()


def test_a_limit_that_is_not_kept_rejects_and_is_told(
    made: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decision, verdict = judge(tmp_path, made.bundle, made.dataset, limits={"frechet_distance": {"at_most": 0.001}})
    assert decision == verdict["decision"] == "reject"
    (reason,) = verdict["reasons"]
    assert reason.startswith("frechet_distance = ")
    assert reason.endswith("is outside the limit <= 0.001")
    printed = capsys.readouterr().out
    assert "verdict: reject" in printed
    assert reason in printed
    assert json.loads((tmp_path / "metrics.json").read_text())["promoted"] is False
    assert "frechet_distance = " in (tmp_path / "evaluation.html").read_text()


def test_a_limit_on_what_is_not_measured_rejects(made: Paths, tmp_path: Path) -> None:
    decision, verdict = judge(tmp_path, made.bundle, made.dataset, limits={"beauty": {"at_least": 0.5}})
    assert decision == "reject"
    assert verdict["reasons"] == ["beauty was not measured, but its limit is >= 0.5"]


def test_an_unconditional_bundle_is_judged_without_labels(
    made: Paths, unconditional: Paths, tmp_path: Path
) -> None:
    decision, verdict = judge(tmp_path, unconditional.bundle, made.dataset)
    assert decision == "promote"
    (agreement,) = [entry for entry in verdict["measures"] if entry["name"] == "label_agreement"]
    assert (agreement["value"], agreement["result"]) == (None, "reported")
    assert agreement["note"].startswith("does not apply")
    assert "label_agreement" not in json.loads((tmp_path / "metrics.json").read_text())
    page = (tmp_path / "evaluation.html").read_text()
    assert "one row per class seen" in page
    assert "Requested class" not in page


def refused_without_a_trace(folder: Path, bundle: Path, dataset: Path, words: str, error: type[Exception]) -> None:
    out = folder / "out"
    out.mkdir()
    with pytest.raises(error, match=words):
        judge(out, bundle, dataset)
    assert list(out.iterdir()) == []


def test_a_bundle_of_another_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    opened = Dataset.open(made.dataset)
    splits = {**opened.splits, "test": opened.splits["validation"]}
    info = opened.info
    other = write_dataset(
        tmp_path / "other", name=info.name, source=info.source, classes=info.classes, splits=splits
    )
    words = (
        f"{made.bundle} was trained on dataset {info.content_hash}, but {other.folder} is "
        f"{other.info.content_hash}; evaluate with the dataset of the training run"
    )
    refused_without_a_trace(tmp_path, made.bundle, other.folder, words, BundleError)


def test_a_bundle_that_names_no_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    spec = Bundle.open(bundle).spec
    seal(bundle, "tiny", spec, {})
    refused_without_a_trace(tmp_path, bundle, made.dataset, "was trained on dataset None", BundleError)


def test_a_tampered_bundle_is_refused(made: Paths, tmp_path: Path) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    graph = bundle / "graph_repository" / "tiny_graph" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    refused_without_a_trace(tmp_path, bundle, made.dataset, r"model\.onnx was changed", BundleError)


def test_a_tampered_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    dataset = shutil.copytree(made.dataset, tmp_path / "dataset")
    labels = np.load(dataset / "test" / "labels.npy")
    np.save(dataset / "test" / "labels.npy", labels[::-1])
    refused_without_a_trace(tmp_path, made.bundle, dataset, "has been changed", DatasetError)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"frechet_distance": {"at_least": 0.1}}}, "limits.frechet_distance: give exactly one of"),
        ({"limits": {"x": {}}}, "limits.x: give exactly one of at_least and at_most"),
        ({"limits": {"x": 3}}, "limits.x: "),
        ({"samples": {"batches": 1}}, "samples.batches: Input should be greater than or equal to 2"),
        ({"samples": {"batch_size": 99}}, "samples.batch_size: Input should be greater than or equal to 100"),
        ({"evaluator": {"epochs": 0}}, "evaluator.epochs: Input should be greater than 0"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        tiny_params("evaluate", **changes)
    assert words in str(caught.value)
