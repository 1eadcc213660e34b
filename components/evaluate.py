"""Evaluate a bundle: judge the exported graph against held-out images -> verdict, its reference, report, metrics.

Judges what will be served, never the training object. Does not stop anything by itself: publish_model refuses
whatever has no `promote` verdict.
"""

import json
from pathlib import Path

import numpy as np

from components.step import run_step
from troika.datasets.contract import Dataset
from troika.errors import BundleError
from troika.folders import write_atomic
from troika.lineage import code_commit
from troika.pages import write_page
from troika.params import Params
from troika.pictures import data_uri, grid
from troika.quality.evaluator import EvaluatorParams
from troika.quality.gate import Judgement, Limit, decide
from troika.quality.generator import OnnxGenerator
from troika.quality.judge import Judged, SampleParams, measure
from troika.quality.reference import Reference, digest_of_reference
from troika.releases.bundle import Bundle


class EvaluateParams(Params):
    """Section `evaluate` of params.yaml."""

    samples: SampleParams
    evaluator: EvaluatorParams
    limits: dict[str, Limit]


def evaluate(
    bundle: Path,
    dataset: Path,
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
        verdict: JSON file to write: decision, reasons, figures with intervals, digests.
        reference: file to write: what the figures were measured against, for who measures the live model.
        report: HTML page to write.
        metrics: JSON file to write: figure name -> value, for DVC and Kubeflow.
        params: section `evaluate`.

    Returns:
        `promote`, `reject` or `inconclusive`.

    Raises:
        BundleError: the bundle is damaged, or was trained on another dataset.
    """
    from troika.quality.evaluator_training import train_evaluator  # noqa: PLC0415 - imports PyTorch

    opened, data = Bundle.open(bundle), Dataset.open(dataset)
    trained_on = opened.lineage.get("dataset", {}).get("content_hash")
    if trained_on != data.info.content_hash:
        raise BundleError(
            f"{bundle} was trained on dataset {trained_on}, but {dataset} is {data.info.content_hash}; "
            "evaluate with the dataset of the training run"
        )
    evaluator = train_evaluator(data.train, data.info.shape, len(data.info.classes), params.evaluator)
    judged = measure(
        OnnxGenerator(opened.graph),
        data,
        evaluator,
        params.samples,
    )
    judgement = decide(judged.measures, params.limits)
    content = Reference.of(data, evaluator).to_bytes()
    write_atomic(reference, content)
    identity = {
        "bundle_digest": opened.digest,
        "dataset_content_hash": data.info.content_hash,
        "evaluator_digest": evaluator.digest,
        "reference_sha256": digest_of_reference(content),
        "code_commit": code_commit(),
    }
    record = {
        "schema_version": 1,
        "model": opened.model,
        **identity,
        **judgement.model_dump(),
        "params": params.model_dump(exclude_none=True),
    }
    write_atomic(verdict, json.dumps(record, indent=1) + "\n")
    figures = {m.name: m.value for m in judgement.measures if m.value is not None}
    write_atomic(metrics, json.dumps({**figures, "promoted": judgement.decision == "promote"}, indent=1) + "\n")
    _write_report(report, opened, data, judged, judgement, identity, params)
    _print_summary(judgement)
    return judgement.decision


def _write_report(
    path: Path,
    bundle: Bundle,
    dataset: Dataset,
    judged: Judged,
    judgement: Judgement,
    identity: dict[str, str],
    params: EvaluateParams,
) -> None:
    scale = max(1, 40 // dataset.info.shape[0])
    held_out = dataset.held_out
    real = np.concatenate(
        [
            held_out.images[np.resize(np.flatnonzero(held_out.labels == label), 10)]
            for label in range(len(dataset.info.classes))
        ]
    )
    write_page(
        path,
        "evaluation.html.j2",
        model=bundle.model,
        spec=bundle.spec,
        judgement=judgement,
        classes=dataset.info.classes,
        total=params.samples.batches * params.samples.batch_size,
        samples=data_uri(grid(judged.gallery, 10, scale)),
        real=data_uri(grid(real, 10, scale)),
        confusion=judged.confusion.tolist(),
        identity=identity,
    )


def _print_summary(judgement: Judgement) -> None:
    for m in judgement.measures:
        if m.value is None:
            print(f"  {m.name:<26} {m.note}")
            continue
        interval = f"[{m.low:.4g}, {m.high:.4g}]" if m.low is not None else ""
        limit = f"{m.limit}  {m.result}" if m.limit else ""
        print(f"  {m.name:<26} {m.value:<8.4g} {interval:<20} {limit}".rstrip())
    print(f"verdict: {judgement.decision}")
    for reason in judgement.reasons:
        print(f"  {reason}")


if __name__ == "__main__":
    run_step(evaluate)
