"""A released model whose quality can be measured within seconds, worse ones, and a store and Git around them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from quick import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))

from tiny_bundle import CLASSES, SHAPE, expected_images, tiny_spec, unsealed

from troika.quality.evaluator import Evaluator
from troika.quality.measures import t_interval
from troika.quality.reference import Reference, digest_of_reference
from troika.releases.bundle import Bundle, seal
from troika.releases.pointer import ensure_local_remote, release
from troika.releases.store import publish

BATCHES, BATCH_SIZE = 5, 200
PIXELS, FEATURES = int(np.prod(SHAPE)), 4
LIMIT = 100.0
_ANSWER = 'return self._session.run(["image"], feed)[0]'


def evaluator() -> Evaluator:
    """Features: a fixed projection of the pixels. It has learned nothing, but sees when pixels are others."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(PIXELS, FEATURES)).astype(np.float32) / 16
    logits = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["features"]),
        helper.make_node("MatMul", ["features", "to_logits"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "evaluator",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES]),
        ],
        [
            numpy_helper.from_array(np.array([-1, PIXELS]), "flat"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(logits, "to_logits"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Evaluator(model.SerializeToString())


def images_of(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What the good model gives for seeds and labels that nobody has chosen."""
    seeds, labels = rng.integers(0, 2**40, count), rng.integers(0, CLASSES, count)
    return expected_images(seeds.tolist(), labels.tolist()), labels


def reference_and_verdict(bundle: Bundle) -> tuple[bytes, dict[str, Any]]:
    """As `evaluate` would measure the good model, on "held-out images" that are like it."""
    rng = np.random.default_rng(1)
    held_out, labels = images_of(rng, 2000)
    judge = evaluator()
    reference = Reference(judge, judge.look_at(held_out)[0], labels, CLASSES, 256)
    batches = [reference.figures(*images_of(rng, BATCH_SIZE)) for _ in range(BATCHES)]
    measures = []
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        low, high = t_interval(values)
        measures.append({"name": name, "value": float(np.mean(values)), "low": low, "high": high})
    content = reference.to_bytes()
    verdict = {
        "decision": "promote",
        "bundle_digest": bundle.digest,
        "reference_sha256": digest_of_reference(content),
        "measures": measures,
        "params": {
            "samples": {"batches": BATCHES, "batch_size": BATCH_SIZE, "seed": 0},
            "limits": {"frechet_distance": {"at_most": LIMIT}},
        },
    }
    return content, verdict


def bundle_with(folder: Path, changes: dict[str, str]) -> Bundle:
    """The tiny bundle with changes in the code that answers; sealed anew, so its digest is its own."""
    unsealed(folder)
    code = folder / "model_repository" / "tiny" / "1" / "model.py"
    text = code.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    code.write_text(text)
    return Bundle.open(folder, seal(folder, "tiny", tiny_spec(conditional=True), {}))


def worse(folder: Path) -> Bundle:
    """A model that has lost its contrast: the same pictures in a sixteenth of the levels."""
    return bundle_with(
        folder,
        {_ANSWER: f"{_ANSWER} // 16"},
    )


def impostor(folder: Path, digest: str) -> Bundle:
    """Says that it is another bundle; its images differ by three levels."""
    return bundle_with(
        folder,
        {
            _ANSWER: f"{_ANSWER} ^ 3",
            "self._cache = _Cache": f"self._digest = {digest.encode()!r}\n        self._cache = _Cache",
        },
    )


@dataclass(frozen=True)
class World:
    """A released model with all that was promised of it."""

    bundle: Bundle
    store: Path
    remote: Path
    verdict_sha256: str


def make_world(folder: Path, *, with_reference: bool = True) -> World:
    """Publish the good model and release it to `test`."""
    from hashlib import sha256

    good = bundle_with(folder / "good", {})
    reference, verdict = reference_and_verdict(good)
    if not with_reference:
        del verdict["reference_sha256"]
    record = json.dumps(verdict).encode()
    store = folder / "store"
    entry = publish(good, record, store, reference=reference if with_reference else None)
    remote = ensure_local_remote(folder / "releases.git")
    verdict_sha256 = f"sha256:{sha256(record).hexdigest()}"
    release(remote, "test", entry, verdict_sha256)
    return World(good, store, remote, verdict_sha256)
