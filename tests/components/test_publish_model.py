"""Nothing reaches the store without a `promote` for exactly these bytes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_steps import Paths, run_quietly

from components.publish_model import publish_model
from troika.errors import BundleError, NotApprovedError, StoreError, TroikaError
from troika.folders import sha256_file
from troika.releases.bundle import Bundle
from troika.releases.store import fetch, read_reference


def test_an_approved_bundle_is_copied_and_recorded(made: Paths, tmp_path: Path) -> None:
    for created in (True, False):
        publish_model(
            made.bundle, made.verdict, made.reference, tmp_path / "published.json", str(tmp_path / "store")
        )
        record = json.loads((tmp_path / "published.json").read_text())
        bundle = Bundle.open(made.bundle)
        assert record == {
            "model": "tiny",
            "digest": bundle.digest,
            "store": (tmp_path / "store").as_uri(),
            "created": created,
            "verdict_sha256": sha256_file(made.verdict),
            "dataset": bundle.lineage["dataset"]["content_hash"],
            "dataset_source": "scikit-learn load_digits",
        }
        named = json.loads(made.verdict.read_text())["reference_sha256"]
        assert read_reference(record["store"], "tiny", bundle.digest, named) == made.reference.read_bytes()
        assert fetch(record["store"], "tiny", bundle.digest, tmp_path / "copy").manifest == bundle.manifest


def refuse(
    folder: Path,
    bundle: Path,
    verdict: Path,
    reference: Path,
    words: str,
    error: type[TroikaError] = NotApprovedError,
) -> None:
    """Neither store nor record may exist afterwards, whichever way the step is called."""
    with pytest.raises(error, match=words):
        publish_model(bundle, verdict, reference, folder / "published.json", str(folder / "store"))
    inputs = ("--bundle", bundle, "--verdict", verdict, "--reference", reference)
    paths = (*inputs, "--published", folder / "published.json")
    code, text = run_quietly("publish_model", *paths, "--store", folder / "store")
    assert code == 1
    assert text.startswith("error: ")
    assert not (folder / "store").exists()
    assert not (folder / "published.json").exists()


def verdict_with(made: Paths, folder: Path, **changes: Any) -> Path:
    path = folder / "verdict.json"
    path.write_text(json.dumps(json.loads(made.verdict.read_text()) | changes))
    return path


@pytest.mark.parametrize("decision", ["reject", "inconclusive", "PROMOTE", "", None, True, ["promote"]])
def test_any_other_decision_is_refused_with_its_reasons(made: Paths, tmp_path: Path, decision: object) -> None:
    verdict = verdict_with(made, tmp_path, decision=decision, reasons=["too blurred", "too few"])
    refuse(tmp_path, made.bundle, verdict, made.reference, r"not 'promote': too blurred; too few")


def test_the_verdict_of_another_bundle_is_refused(made: Paths, unconditional: Paths, tmp_path: Path) -> None:
    refuse(
        tmp_path,
        unconditional.bundle,
        made.verdict,
        made.reference,
        "the verdict is about sha256:.*, not about sha256:",
    )


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "null", "3", '"promote"'],
    ids=["no file", "empty", "no JSON", "a list", "null", "a number", "a word"],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(made: Paths, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "verdict.json").write_text(content)
    refuse(
        tmp_path,
        made.bundle,
        tmp_path / "verdict.json",
        made.reference,
        r"is not a verdict \(.*\); run evaluate first",
    )


def test_a_verdict_without_its_fields_is_refused(made: Paths, tmp_path: Path) -> None:
    for content in ({}, {"decision": "promote"}, {"bundle_digest": Bundle.open(made.bundle).digest}):
        (tmp_path / "verdict.json").write_text(json.dumps(content))
        refuse(tmp_path, made.bundle, tmp_path / "verdict.json", made.reference, "the verdict is ")


def flip_weights(bundle: Path) -> None:
    graph = bundle / "graph_repository" / "tiny_graph" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (flip_weights, r"model\.onnx was changed"),
        (lambda bundle: (bundle / "golden.npz").unlink(), r"golden\.npz is missing"),
        (lambda bundle: (bundle / "extra.txt").write_text(""), r"extra\.txt is not listed"),
        (lambda bundle: (bundle / "manifest.json").unlink(), r"manifest\.json is missing"),
    ],
)
def test_a_tampered_bundle_is_refused(
    made: Paths, tmp_path: Path, tamper: Callable[[Path], object], words: str
) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    tamper(bundle)
    refuse(tmp_path, bundle, made.verdict, made.reference, words, BundleError)


def test_a_store_of_another_kind_is_named(made: Paths, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ftp://models: ftp:// is not supported"):
        publish_model(made.bundle, made.verdict, made.reference, tmp_path / "published.json", "ftp://models")
    assert not (tmp_path / "published.json").exists()


def test_another_reference_or_none_is_refused(made: Paths, tmp_path: Path) -> None:
    refuse(tmp_path, made.bundle, made.verdict, made.bundle / "golden.npz", "not measured against this reference")
    refuse(tmp_path, made.bundle, made.verdict, tmp_path / "none.npz", "is not the verdict's reference")
