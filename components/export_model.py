"""Export a model: checkpoint -> bundle, the folder that is judged, published and served.

Does not decide whether the model is good; it makes sure that what is served equals what was trained.
"""

import html
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from components.step import run_step
from troika.errors import CheckpointError, ParameterError
from troika.folders import replace_folder
from troika.models.contract import GenerativeModel, ModelSpec
from troika.models.export import build_onnx, parity
from troika.models.registry import model_class
from troika.onnx_session import open_session, run_generator
from troika.params import Params
from troika.releases.bundle import seal, write_triton_entry

GOLDEN_COUNT = 20


class ExportModelParams(Params):
    """Section `export_model` of params.yaml."""

    model_name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """Name under which Triton serves the model."""
    parity_samples: int = Field(ge=2)
    """Samples in which the framework is compared with ONNX Runtime."""
    parity_seed: int = Field(ge=0)


def export_model(checkpoint: Path, bundle: Path, params: ExportModelParams) -> str:
    """Write the ONNX graph and all that goes with it, and prove that it answers like the framework.

    Args:
        checkpoint: folder that train wrote.
        bundle: folder to write, see troika/releases/bundle.py.
        params: section `export_model`.

    Returns:
        The bundle's digest, the model's identity from here on.

    Raises:
        CheckpointError: the checkpoint is damaged.
        BundleError: ONNX Runtime's images differ from the framework's by more than one grey level.
    """
    try:
        lineage = json.loads((checkpoint / "lineage.json").read_text(encoding="utf-8"))
        classes = json.loads((checkpoint / "classes.json").read_text(encoding="utf-8"))
        train = lineage["train"]
        kind = model_class(train["family"], train["framework"])
    except (OSError, ValueError, KeyError, TypeError, ParameterError) as error:
        raise CheckpointError(f"{checkpoint} is not a checkpoint that train wrote: {error}") from None
    model = kind.load(checkpoint / "model")
    if not isinstance(classes, list) or len(classes) != model.spec.num_classes:
        raise CheckpointError(f"{checkpoint}/classes.json must name {model.spec.num_classes} classes; train again")
    spec = {**model.spec.model_dump(mode="json"), "classes": classes}
    with replace_folder(bundle) as new, tempfile.TemporaryDirectory() as scratch:
        core, graph = Path(scratch) / "core.onnx", Path(scratch) / "model.onnx"
        model.export_core(core)
        build_onnx(core, model.spec, graph)
        report = parity(model, graph, params.parity_samples, params.parity_seed)
        (new / "parity.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        _write_golden(new / "golden.npz", graph, model.spec)
        write_triton_entry(new, params.model_name, graph, spec)
        card = _model_card(params.model_name, model, classes, lineage, report)
        (new / "model_card.md").write_text(card, "utf-8")
        digest = seal(new, params.model_name, spec, lineage)
    print(f"{params.model_name} {digest}; framework and ONNX differ by at most {_largest(report)} of 255 levels")
    return digest


def _write_golden(path: Path, graph: Path, spec: ModelSpec) -> None:
    """Inputs and the graph's answers, to compare a server's answers with."""
    seeds = np.arange(GOLDEN_COUNT, dtype=np.int64)
    inputs = {"seed": seeds[:, np.newaxis]}
    if spec.conditional:
        inputs["label"] = (seeds % spec.num_classes)[:, np.newaxis]
    images = run_generator(open_session(graph), seeds, seeds % spec.num_classes)
    # np.savez gives every entry the same fixed date, so equal content gives equal bytes.
    np.savez(path, image=images, **inputs)


def _largest(report: dict[str, Any]) -> int:
    return max(int(values["max_difference"]) for values in report["rungs"].values())


def _model_card(
    name: str, model: GenerativeModel, classes: Sequence[str], lineage: dict[str, Any], report: dict[str, Any]
) -> str:
    spec, dataset, train = model.spec, lineage["dataset"], lineage["train"]
    height, width, channels = spec.image_shape
    rows = {
        "model": f"{spec.family} / {spec.framework} / {spec.preset}",
        "image": f"{height} x {width}, {channels} channel{'s' if channels > 1 else ''}, uint8",
        "input": "seed and label" if spec.conditional else "seed",
        "classes": str(spec.num_classes),
        "dataset": f"{dataset['name']} ({dataset['source']})",
        **_dvc_rows(dataset.get("origin", {})),
        "dataset content hash": f"`{dataset['content_hash']}`",
        "dataset DVC hash": f"`{dataset['dvc_hash']}`",
        "training images": str(dataset["counts"]["train"]),
        "steps, batch size, seed": f"{train['steps']}, {train['batch_size']}, {train['seed']}",
        "code commit": f"`{lineage['code_commit']}`",
        "container image": lineage["image"],
        "versions": ", ".join(f"{package} {number}" for package, number in lineage["packages"].items()),
    }
    parity_rows = [
        f"| {rung} | {values['max_difference']} | {values['share_differing']:.2%} |"
        for rung, values in report["rungs"].items()
    ]
    return "\n".join(
        [
            f"# Model card: {name}",
            "",
            "Makes images from a seed; the same (digest, seed, label) always gives the same picture.",
            "Whether it may be released is decided by its verdict, which is stored beside the release.",
            "",
            "| | |",
            "|---|---|",
            *[f"| {key} | {value} |" for key, value in rows.items()],
            "",
            *_class_table(classes if spec.conditional else ()),
            "## Parity: framework against ONNX Runtime",
            "",
            "| rung | largest difference in levels of 255 | pixels that differ |",
            "|---|---|---|",
            *parity_rows,
            "",
            "## Limits",
            "",
            "It can only repeat what its training images hold: style, classes and resolution. It was not made to",
            "fool a reader into taking its images for real documents, and must not be used so.",
            "",
        ]
    )


def _class_table(classes: Sequence[str]) -> list[str]:
    """Lines of the table label -> name of class; none for an unconditional model."""
    if not classes:
        return []
    names = [html.escape(" ".join(name.split())).replace("|", "&#124;") for name in classes]
    rows = [f"| {number} | {name} |" for number, name in enumerate(names)]
    return ["## Labels", "", "| label | class |", "|---|---|", *rows, ""]


def _dvc_rows(origin: dict[str, str]) -> dict[str, str]:
    """Where in DVC the images came from; nothing for those that came from elsewhere."""
    if "repo" not in origin:
        return {}
    rows = {
        "DVC repository and path": f"{origin['repo']}, `{origin['path']}`",
        "DVC revision": f"{origin['rev']}, commit `{origin['commit']}`",
    }
    return {**rows, "DVC hash of the source": f"`{origin['dvc_hash']}`"} if "dvc_hash" in origin else rows


if __name__ == "__main__":
    run_step(export_model)
