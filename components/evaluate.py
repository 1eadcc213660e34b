"""Evaluate a bundle: judge the exported graph against held-out images -> verdict, its reference, report, metrics.

Judges what will be served, never the training object; against limits, and against the released model. Does not
stop anything by itself: publish_model refuses whatever has no `promote` verdict.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.step import run_step
from troika.datasets.contract import Dataset, Images
from troika.errors import BundleError, DatasetError, ReleaseError
from troika.folders import write_atomic
from troika.lineage import code_commit
from troika.models.latents import draw_latents
from troika.params import Params
from troika.quality.challenge import ChampionParams
from troika.quality.evaluator import Evaluator
from troika.quality.gate import Limit, Measure
from troika.quality.generator import OnnxGenerator
from troika.quality.inception import InceptionFeatures
from troika.quality.interpolation import interpolate
from troika.quality.judge import Judged, SampleParams, judge
from troika.quality.real import RealSide
from troika.quality.reference import digest_of_reference
from troika.quality.report import write_report
from troika.quality.self_test import SelfTestRow, self_test
from troika.quality.verdict import Champion, Verdict
from troika.releases import local
from troika.releases.bundle import Bundle
from troika.releases.store import fetch

_FEWEST_HELD_OUT = 20
_ROWS = 10
"""Of latent interpolation."""


class EvaluateParams(Params):
    """Section `evaluate` of params.yaml."""

    samples: SampleParams
    limits: dict[str, Limit]
    champion: ChampionParams
    inception: str
    """Path of an ONNX file, see troika/quality/inception.py; empty: none."""
    self_test: bool
    """Whether known-bad generators go through the gate first."""


def evaluate(
    bundle: Path,
    dataset: Path,
    evaluator: Path,
    champion: Path,
    verdict: Path,
    reference: Path,
    report: Path,
    metrics: Path,
    params: EvaluateParams,
) -> str:
    """Measure a bundle and decide.

    Args:
        bundle: folder that export_model wrote.
        dataset: the dataset that the model was trained on; its held-out images are the reference.
        evaluator: file that train_evaluator wrote for this dataset.
        champion: file that find_champion wrote.
        verdict: JSON file to write: decision, reasons, figures with intervals, digests; see docs/verdict.md.
        reference: file to write: what the figures were measured against, for who measures the live model.
        report: HTML page to write.
        metrics: JSON file to write: figure name -> value, for DVC and Kubeflow.
        params: section `evaluate`.

    Returns:
        `promote`, `reject` or `inconclusive`.

    Raises:
        BundleError: the bundle is damaged, or was trained on another dataset.
        EvaluatorError: the evaluator is not one, or was trained on another dataset; or features of `inception`
            would say nothing about these images.
        StoreError: the champion cannot be fetched.
        GateBrokenError: the gate would promote a generator that is known to be bad.
    """
    opened, data = Bundle.open(bundle), Dataset.open(dataset)
    trained_on = opened.lineage.get("dataset", {}).get("content_hash")
    if trained_on != data.info.content_hash:
        raise BundleError(
            f"{bundle} was trained on dataset {trained_on}, but {dataset} is {data.info.content_hash}; "
            "evaluate with the dataset of the training run"
        )
    if len(data.held_out) < _FEWEST_HELD_OUT:
        raise DatasetError(
            f"{dataset} has {len(data.held_out)} held-out images; "
            f"at least {_FEWEST_HELD_OUT} are needed to judge with"
        )
    real = RealSide(
        data,
        Evaluator.open(evaluator, data.info.content_hash),
        params.samples.batch_size,
        params.samples.real,
        InceptionFeatures(Path(params.inception), data.info.shape) if params.inception else None,
    )
    with tempfile.TemporaryDirectory(prefix="troika-champion-") as scratch:
        released = _champion(champion, opened, data, Path(scratch), params.champion)
        judged = judge(
            OnnxGenerator(opened.graph), real, params.samples, params.limits, released.generator, params.champion
        )
        tested = _self_test(real, judged, params)
        interpolation = _interpolation(OnnxGenerator(opened.graph), data, judged)
    content = real.reference.to_bytes()
    found = Verdict.of(
        judged,
        model=opened.model,
        identity={
            "bundle_digest": opened.digest,
            "dataset_content_hash": data.info.content_hash,
            "evaluator_digest": real.evaluator.digest,
            "reference_sha256": digest_of_reference(content),
            "code_commit": code_commit(),
        },
        self_test=tested,
        champion=released.record,
        champion_note=judged.champion_problem or released.note,
        params=params.model_dump(exclude_none=True),
    )
    write_atomic(reference, content)
    write_atomic(verdict, found.to_json())
    figures = {m.name: m.value for m in judged.judgement.measures if m.value is not None}
    write_atomic(metrics, json.dumps({**figures, "promoted": judged.decision == "promote"}, indent=1) + "\n")
    write_report(
        report,
        verdict=found,
        judged=judged,
        real=real,
        spec=opened.spec,
        lineage=opened.lineage,
        interpolation=interpolation,
        rollback=f"troika rollback --to {released.environment}" if released.environment else None,
    )
    _print_summary(found)
    return judged.decision


@dataclass(frozen=True)
class _Released:
    generator: OnnxGenerator | None
    record: Champion | None
    """None where nothing is released."""
    note: str
    environment: str


def _champion(path: Path, bundle: Bundle, data: Dataset, scratch: Path, params: ChampionParams) -> _Released:
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        environment = str(found.pop("environment", ""))
        if not found:
            note = "nothing is released yet that it would have to beat"
            return _Released(None, None, note, environment)
        others = found.pop("others", {})
        if found["model"] != bundle.model:
            if bundle.model not in others:
                note = f"no {bundle.model} is released yet that it would have to beat"
                return _Released(None, None, note, environment)
            found = dict(others[bundle.model])
        store = str(found.pop("store"))
        record = Champion.model_validate(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{path} is not what find_champion writes ({error!r}); run find_champion") from None
    if params.must == "ignore":
        note = "the champion does not count (evaluate.champion.must is ignore), limits alone do"
        return _Released(None, record, note, environment)
    if record.digest == bundle.digest:
        return _Released(None, record, "it is the champion itself, so limits alone count", environment)
    champion = fetch(store, record.model, record.digest, scratch / "champion", public_key=local.verify_key())
    if problem := _not_comparable(champion, data):
        return _Released(None, record, f"{problem}, so limits alone count", environment)
    return _Released(
        OnnxGenerator(champion.graph), record, f"the champion is version {record.version}", environment
    )


def _not_comparable(champion: Bundle, data: Dataset) -> str | None:
    """Return why the champion's images cannot be held beside those of this dataset; None if they can."""
    made = {name: champion.spec.get(name) for name in ("image_shape", "num_classes")}
    wanted = {"image_shape": list(data.info.shape), "num_classes": len(data.info.classes)}
    if made != wanted:
        return f"the champion makes other images ({made}, not {wanted})"
    classes = list(data.info.classes)
    if champion.spec.get("conditional") and champion.spec.get("classes", classes) != classes:
        return "the champion's labels stand for other classes, or for them in another order"
    return None


def _self_test(real: RealSide, judged: Judged, params: EvaluateParams) -> list[SelfTestRow]:
    if not params.self_test:
        print("  warning: the gate was not tested against known-bad generators (evaluate.self_test is false)")
        return []
    tally = judged.champion or judged.tally
    return self_test(real, params.samples, params.limits, params.champion, tally)


def _interpolation(generator: OnnxGenerator, data: Dataset, judged: Judged) -> Images | None:
    """From the image of seed 2r to that of seed 2r + 1, row by row; None for what gives no images."""
    if not judged.tally.samples:
        return None
    rows = min(len(data.info.classes), _ROWS) if judged.tally.conditional else _ROWS
    ends = draw_latents(np.arange(2 * rows), generator.latent_size).reshape(rows, 2, -1)
    return interpolate(generator, ends, np.arange(rows))


def _print_summary(verdict: Verdict) -> None:
    for m in verdict.measures:
        if m.limit or m.name.startswith("frechet"):
            print(_line(m))
    bad = [row for row in verdict.self_test if not row.control]
    if bad:
        print(f"gate's self-test: {len(bad)} of {len(bad)} known-bad generators refused")
    for row in verdict.self_test:
        if row.control and row.decision == "reject":
            print(f"  but real images would not pass either: {row.reason}")
    print(verdict.headline)
    if verdict.decision != "promote":
        for reason in verdict.reasons:
            print(f"  {reason}")


def _line(m: Measure) -> str:
    if m.value is None:
        return f"  {m.name:<28} {m.note}"
    interval = f"[{m.low:.4g}, {m.high:.4g}]" if m.low is not None else ""
    limit = f"{m.limit}  {m.result}" if m.limit else ""
    return f"  {m.name:<28} {m.value:<8.4g} {interval:<20} {limit}".rstrip()


if __name__ == "__main__":
    run_step(evaluate)
