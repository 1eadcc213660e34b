"""A verdict is about one bundle and the dataset that it was trained on, and holds all that was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_steps import Paths, tiny_params

from components.evaluate import evaluate
from troika.datasets.contract import Dataset, Split
from troika.datasets.writing import write_dataset
from troika.errors import (
    BundleError,
    DatasetError,
    EvaluatorError,
    GateBrokenError,
    ParameterError,
    ReleaseError,
    StoreError,
)
from troika.folders import sha256_file
from troika.quality.reference import Reference
from troika.releases.bundle import Bundle, seal
from troika.releases.store import publish

LIMITS = tiny_params("evaluate").limits


def judge(
    made: Paths,
    folder: Path,
    *,
    bundle: Path | None = None,
    dataset: Path | None = None,
    champion: Path | None = None,
    **changes: Any,
) -> tuple[str, dict[str, Any]]:
    """The decision and the verdict; `champion_` changes the parameters of that name."""
    files = [folder / name for name in ("verdict.json", "reference.npz", "evaluation.html", "metrics.json")]
    decision = evaluate(
        bundle or made.bundle,
        dataset or made.dataset,
        made.evaluator,
        champion or made.champion,
        *files,
        tiny_params("evaluate", **{name.rstrip("_"): value for name, value in changes.items()}),
    )
    return decision, json.loads(files[0].read_text(), parse_constant=pytest.fail)


def test_the_verdict_holds_identities_figures_and_parameters(made: Paths) -> None:
    verdict = json.loads(made.verdict.read_text(), parse_constant=pytest.fail)
    assert set(verdict) == {
        "schema_version", "model", "bundle_digest", "dataset_content_hash", "evaluator_digest", "reference_sha256",
        "code_commit", "decision", "reasons", "samples", "batches", "measures", "champion", "champion_note",
        "challenge", "champion_measures", "self_test", "params",
    }  # fmt: skip
    bundle = Bundle.open(made.bundle)
    assert (verdict["schema_version"], verdict["model"], verdict["decision"]) == (2, "tiny", "promote")
    assert verdict["bundle_digest"] == bundle.digest
    assert verdict["dataset_content_hash"] == bundle.lineage["dataset"]["content_hash"]
    assert verdict["evaluator_digest"] == sha256_file(made.evaluator)
    assert verdict["reference_sha256"] == sha256_file(made.reference)
    assert Reference.from_bytes(made.reference.read_bytes()).evaluator.digest == verdict["evaluator_digest"]
    assert verdict["reasons"] == []
    assert verdict["params"] == tiny_params("evaluate").model_dump(exclude_none=True)
    measures = {entry["name"]: entry for entry in verdict["measures"]}
    assert set(LIMITS) <= set(measures)
    for name, entry in measures.items():
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["result"] == ("passed" if name in LIMITS else "reported")
        assert (entry["limit"] is not None) == (name in LIMITS)
    assert (verdict["samples"], verdict["batches"]) == (200, 2)
    assert (verdict["champion"], verdict["challenge"], verdict["self_test"]) == (None, None, [])


def test_metrics_are_the_figures_by_name(made: Paths) -> None:
    verdict = json.loads(made.verdict.read_text())
    metrics = json.loads((made.folder / "metrics.json").read_text())
    assert metrics.pop("promoted") is True
    assert metrics == {entry["name"]: entry["value"] for entry in verdict["measures"]}


def test_judging_again_gives_the_same_verdict(made: Paths, tmp_path: Path) -> None:
    judge(made, tmp_path)
    assert (tmp_path / "verdict.json").read_bytes() == made.verdict.read_bytes()
    assert (tmp_path / "evaluation.html").read_bytes() == (made.folder / "evaluation.html").read_bytes()


def test_a_limit_that_is_not_kept_rejects_and_is_told(
    made: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decision, verdict = judge(made, tmp_path, limits={"frechet_distance": {"above_floor": None, "at_most": 0.001}})
    assert decision == verdict["decision"] == "reject"
    (reason,) = verdict["reasons"]
    assert reason.startswith("frechet_distance = ")
    assert reason.endswith("is outside the limit <= 0.001")
    printed = capsys.readouterr().out
    assert "Rejected: 1 of 13 limits is broken: Fréchet distance" in printed
    assert json.loads((tmp_path / "metrics.json").read_text())["promoted"] is False
    assert "1 of 13 limits is broken" in (tmp_path / "evaluation.html").read_text()


def test_a_limit_on_what_is_not_measured_rejects(made: Paths, tmp_path: Path) -> None:
    decision, verdict = judge(made, tmp_path, limits={"beauty": {"at_least": 0.5}})
    assert decision == "reject"
    assert verdict["reasons"] == ["beauty was not measured, but its limit is >= 0.5"]


def test_an_unconditional_bundle_is_judged_without_labels(
    made: Paths, unconditional: Paths, tmp_path: Path
) -> None:
    decision, verdict = judge(made, tmp_path, bundle=unconditional.bundle)
    assert decision == "promote"
    (agreement,) = [entry for entry in verdict["measures"] if entry["name"] == "label_agreement"]
    assert (agreement["value"], agreement["result"]) == (None, "reported")
    assert agreement["note"].startswith("does not apply")
    assert "label_agreement" not in json.loads((tmp_path / "metrics.json").read_text())


def refused_without_a_trace(made: Paths, folder: Path, words: str, error: type[Exception], **changes: Any) -> None:
    out = folder / "out"
    out.mkdir()
    with pytest.raises(error, match=words):
        judge(made, out, **changes)
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
    refused_without_a_trace(made, tmp_path, words, BundleError, dataset=other.folder)


def test_a_bundle_that_names_no_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    spec = Bundle.open(bundle).spec
    seal(bundle, "tiny", spec, {})
    refused_without_a_trace(made, tmp_path, "was trained on dataset None", BundleError, bundle=bundle)


def test_a_tampered_bundle_is_refused(made: Paths, tmp_path: Path) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    graph = bundle / "graph_repository" / "tiny_graph" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    refused_without_a_trace(made, tmp_path, r"model\.onnx was changed", BundleError, bundle=bundle)


def test_a_tampered_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    dataset = shutil.copytree(made.dataset, tmp_path / "dataset")
    labels = np.load(dataset / "test" / "labels.npy")
    np.save(dataset / "test" / "labels.npy", labels[::-1])
    refused_without_a_trace(made, tmp_path, "has been changed", DatasetError, dataset=dataset)


def test_an_evaluator_of_another_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    copy = Paths(shutil.copytree(made.folder, tmp_path / "copy"))
    graph = onnx.load(copy.evaluator)
    for entry in graph.metadata_props:
        if entry.key == "dataset_content_hash":
            entry.value = "sha256:" + "0" * 64
    onnx.save(graph, copy.evaluator)
    refused_without_a_trace(copy, tmp_path, "was trained on dataset sha256:0000", EvaluatorError)


@pytest.fixture(scope="module")
def champion(made: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What find_champion writes where the tiny bundle is released."""
    folder = tmp_path_factory.mktemp("champion")
    published = publish(
        Bundle.open(made.bundle), made.verdict.read_bytes(), folder / "store", None, made.reference.read_bytes()
    )
    found = {"environment": "staging", "model": "tiny", "digest": published.digest, "version": 3}
    (folder / "champion.json").write_text(json.dumps({**found, "store": published.store}))
    return folder / "champion.json"


@pytest.fixture(scope="module")
def twin(made: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same weights with another digest."""
    bundle = shutil.copytree(made.bundle, tmp_path_factory.mktemp("twin") / "bundle")
    opened = Bundle.open(bundle)
    seal(bundle, "tiny", opened.spec, {**opened.lineage, "note": "twin"})
    return bundle


def test_a_model_that_is_no_better_than_the_champion_is_rejected(
    made: Paths, champion: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decision, verdict = judge(made, tmp_path, bundle=twin, champion=champion, champion_={"must": "beat"})
    assert decision == verdict["decision"] == "reject"
    assert verdict["reasons"] == ["as far from real images as the champion: no better"]
    assert verdict["challenge"]["ratio"] == 1
    assert verdict["champion"] == {"model": "tiny", "digest": Bundle.open(made.bundle).digest, "version": 3}
    value = {entry["name"]: entry["value"] for entry in verdict["measures"]}
    assert {entry["name"]: entry["value"] for entry in verdict["champion_measures"]} == value
    assert "but the model is as far from real images as the champion: no better" in capsys.readouterr().out
    page = (tmp_path / "evaluation.html").read_text()
    assert "troika rollback --to staging" in page


def test_to_match_the_champion_the_same_is_enough(made: Paths, champion: Path, twin: Path, tmp_path: Path) -> None:
    decision, verdict = judge(made, tmp_path, bundle=twin, champion=champion, champion_={"must": "match"})
    assert (decision, verdict["challenge"]["decision"]) == ("promote", "promote")


def test_the_champion_itself_is_held_against_limits_alone(made: Paths, champion: Path, tmp_path: Path) -> None:
    """So that a run that is repeated after its release says the same again."""
    decision, verdict = judge(made, tmp_path, champion=champion, champion_={"must": "beat"})
    assert (decision, verdict["challenge"]) == ("promote", None)
    assert verdict["champion_note"] == "it is the champion itself, so limits alone count"


def test_a_champion_is_one_of_the_same_name(made: Paths, champion: Path, twin: Path, tmp_path: Path) -> None:
    """Served now is another model; the champion is what the environment served last under this one's name."""
    own = json.loads(champion.read_text())
    environment = own.pop("environment")
    served = {
        "environment": environment,
        "model": "other",
        "digest": "sha256:" + "0" * 64,
        "version": 4,
        "store": "x",
    }
    path = tmp_path / "champion.json"
    path.write_text(json.dumps({**served, "others": {"tiny": own}}))
    decision, verdict = judge(made, tmp_path, bundle=twin, champion=path, champion_={"must": "beat"})
    assert (decision, verdict["champion"]["version"]) == ("reject", 3)
    path.write_text(json.dumps(served))
    decision, verdict = judge(made, tmp_path, bundle=twin, champion=path, champion_={"must": "beat"})
    assert (decision, verdict["champion"]) == ("promote", None)
    assert verdict["champion_note"] == "no tiny is released yet that it would have to beat"


def test_a_champion_that_does_not_count_is_not_even_fetched(made: Paths, twin: Path, tmp_path: Path) -> None:
    missing = tmp_path / "champion.json"
    found = {"model": "tiny", "digest": "sha256:" + "0" * 64, "version": 1, "store": "file:///nowhere"}
    missing.write_text(json.dumps(found))
    decision, verdict = judge(made, tmp_path, bundle=twin, champion=missing)
    assert (decision, verdict["challenge"], verdict["champion"]["version"]) == ("promote", None, 1)


def test_a_champion_that_cannot_be_fetched_stops_the_run(made: Paths, twin: Path, tmp_path: Path) -> None:
    missing = tmp_path / "champion.json"
    store = (tmp_path / "store").as_uri()
    (tmp_path / "store").mkdir()
    missing.write_text(json.dumps({"model": "tiny", "digest": "sha256:" + "0" * 64, "version": 1, "store": store}))
    refused_without_a_trace(
        made, tmp_path, "model store", StoreError, bundle=twin, champion=missing, champion_={"must": "beat"}
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_shape": [16, 16, 3]}, "the champion makes other images"),
        ({"classes": list("1023456789")}, "the champion's labels stand for other classes, or for them in another"),
    ],
)
def test_a_champion_of_other_images_or_labels_cannot_be_compared_with(
    made: Paths, champion: Path, twin: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = shutil.copytree(made.bundle, tmp_path / "other")
    opened = Bundle.open(other)
    seal(other, "tiny", {**opened.spec, **changes}, opened.lineage)
    digest = Bundle.open(other).digest
    verdict = {**json.loads(made.verdict.read_text()), "bundle_digest": digest}
    published = publish(Bundle.open(other), verdict, tmp_path / "store")
    found = {"model": "tiny", "digest": digest, "version": 1, "store": published.store}
    (tmp_path / "champion.json").write_text(json.dumps(found))
    decision, judged = judge(
        made, tmp_path, bundle=twin, champion=tmp_path / "champion.json", champion_={"must": "beat"}
    )
    assert (decision, judged["challenge"]) == ("promote", None)
    assert judged["champion_note"].startswith(words)


@pytest.mark.parametrize("content", ["", "[1]", '{"model": "tiny"}', '{"digest": 3, "store": "x"}', "null"])
def test_what_is_no_champion_file_is_refused(made: Paths, tmp_path: Path, content: str) -> None:
    broken = tmp_path / "champion.json"
    broken.write_text(content)
    refused_without_a_trace(made, tmp_path, "is not what find_champion writes", ReleaseError, champion=broken)


def test_a_gate_that_lets_known_bad_generators_through_fails_the_run(made: Paths, tmp_path: Path) -> None:
    refused_without_a_trace(
        made, tmp_path, "^gate broken: it would not refuse noise", GateBrokenError, self_test=True
    )


def test_features_of_photographs_are_refused_for_digits(made: Paths, tmp_path: Path) -> None:
    words = "features of colour photographs say nothing about images of 1 channel"
    refused_without_a_trace(made, tmp_path, words, EvaluatorError, inception="inception.onnx")


def test_a_dataset_with_too_few_held_out_images_is_refused(made: Paths, tmp_path: Path) -> None:
    opened = Dataset.open(made.dataset)
    few = {name: Split(split.images[:9], split.labels[:9]) for name, split in opened.splits.items()}
    info = opened.info
    written = write_dataset(tmp_path / "few", name=info.name, source=info.source, classes=info.classes, splits=few)
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    lineage = {"dataset": {"content_hash": written.info.content_hash}}
    seal(bundle, "tiny", Bundle.open(bundle).spec, lineage)
    words = "has 18 held-out images; at least 20 are needed to judge with"
    refused_without_a_trace(made, tmp_path, words, DatasetError, bundle=bundle, dataset=written.folder)


def test_a_gate_that_was_not_tested_says_so(
    made: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(made, tmp_path)
    assert "warning: the gate was not tested against known-bad generators" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"frechet_distance": {"at_least": 0.1}}}, "limits.frechet_distance: give exactly one of"),
        ({"limits": {"x": {}}}, "limits.x: give exactly one of at_least, at_most, below_floor and above_floor"),
        ({"limits": {"x": 3}}, "limits.x: "),
        ({"samples": {"batches": 1}}, "samples.batches: Input should be greater than or equal to 2"),
        ({"samples": {"batch_size": 99}}, "samples.batch_size: Input should be greater than or equal to 100"),
        ({"samples": {"budget": 1}}, "samples.budget: Input should be greater than or equal to 2"),
        ({"champion": {"must": "win"}}, "champion.must: Input should be 'beat', 'match' or 'ignore'"),
        ({"self_test": 1}, "self_test: Input should be a valid boolean"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        tiny_params("evaluate", **changes)
    assert words in str(caught.value)
