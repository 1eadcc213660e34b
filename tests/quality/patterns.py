"""A data set of noisy patterns, one to a class, of any shape; with a judge that needs no training."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from troika.datasets.contract import Dataset, DatasetInfo, Images, Labels, Origin, Split
from troika.quality.challenge import ChampionParams
from troika.quality.evaluator import Evaluator
from troika.quality.gate import Limit
from troika.quality.judge import Generator, Judged, SampleParams, judge
from troika.quality.real import RealSide
from troika.quality.self_test import SelfTestRow
from troika.quality.verdict import Champion, Verdict

SAMPLES = SampleParams(batches=2, batch_size=100, budget=2, real=1000, seed=0)
CHAMPION = ChampionParams(must="beat", seed_spread=0.12, false_promotion=0.005)
LIMITS = {
    "label_agreement": Limit(at_least=0.9),
    "frechet_distance": Limit(above_floor=0.5),
    "recall": Limit(below_floor=0.5),
    "memorisation": Limit(at_most=0.9),
}
IDENTITY = {
    "bundle_digest": f"sha256:{'b' * 64}",
    "dataset_content_hash": f"sha256:{'d' * 64}",
    "evaluator_digest": f"sha256:{'e' * 64}",
    "reference_sha256": f"sha256:{'f' * 64}",
    "code_commit": "c0ffee",
}


def pattern_side(shape: tuple[int, int, int] = (6, 6, 1), classes: tuple[str, ...] = ("a", "b", "c")) -> RealSide:
    """The real side: 300 training and 200 held-out images, classes in turn."""
    patterns = patterns_of(shape, len(classes))
    splits = {}
    for number, (name, count) in enumerate((("train", 300), ("validation", 100), ("test", 100))):
        labels = np.arange(count) % len(classes)
        splits[name] = Split(_noisy(patterns[labels], np.random.default_rng(number)), labels)
    info = DatasetInfo(
        name="patterns",
        source="made up",
        origin=Origin(kind="npz"),
        shape=shape,
        classes=classes,
        counts={"train": 300, "validation": 100, "test": 100},
        levels=256,
        shard_images=0,
        content_hash=IDENTITY["dataset_content_hash"],
    )
    dataset = Dataset(Path("nowhere"), info, splits)  # type: ignore[arg-type]
    return RealSide(dataset, nearest_pattern(patterns), SAMPLES.batch_size, SAMPLES.real)


def patterns_of(shape: tuple[int, int, int], classes: int) -> Images:
    return np.random.default_rng(7).integers(0, 256, (classes, *shape), dtype=np.uint8)


def _noisy(images: Images, rng: np.random.Generator) -> Images:
    return np.clip(images + rng.normal(0, 60, images.shape), 0, 255).astype(np.uint8)


def nearest_pattern(patterns: Images) -> Evaluator:
    """A graph that says which pattern is nearest; its features are 16 random directions."""
    rows = patterns.reshape(len(patterns), -1).astype(np.float32) / 255
    directions = np.random.default_rng(8).normal(size=(rows.shape[1], 16)).astype(np.float32)
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "flat": np.array([0, -1], np.int64),
        "directions": directions / np.sqrt(rows.shape[1]),
        "patterns": np.ascontiguousarray(rows.T),
        "lengths": (rows**2).sum(axis=1) / 2,
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "directions"], ["features"]),
        helper.make_node("MatMul", ["rows", "patterns"], ["products"]),
        helper.make_node("Sub", ["products", "lengths"], ["logits"]),
    ]
    return Evaluator(_graph(nodes, constants, {"image": patterns.shape[1:]}).SerializeToString())


def _graph(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], inputs: dict[str, tuple[int, ...]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "patterns",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", *shape]) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in ("features", "logits")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class PatternGenerator:
    """Noisy patterns. The first two values of each image are its seed, so that a test can tell."""

    def __init__(self, real: RealSide, *, conditional: bool = True, noise: int = 60) -> None:
        self.conditional = conditional
        self._noise = noise
        self._patterns = patterns_of(real.dataset.info.shape, len(real.dataset.info.classes))

    def draw(self, seeds: NDArray[np.int64], labels: Labels) -> Images:
        rng = np.random.default_rng([int(seeds[0]), self._noise])
        shown = labels if self.conditional else rng.integers(0, len(self._patterns), len(labels))
        images = self._patterns[shown] + rng.normal(0, self._noise, (len(seeds), *self._patterns.shape[1:]))
        found = np.clip(images, 0, 255).astype(np.uint8)
        rows = found.reshape(len(found), -1)
        rows[:, 0], rows[:, 1] = seeds // 256, seeds % 256
        return found


def judged_patterns(real: RealSide, ours: Generator, theirs: Generator | None = None) -> Judged:
    return judge(ours, real, SAMPLES, LIMITS, theirs, CHAMPION)


def verdict_on(judged: Judged, *, self_test: list[SelfTestRow] | None = None, released: bool = False) -> Verdict:
    champion = Champion(model="patterns", digest=f"sha256:{'a' * 64}", version=4)
    params = {
        "samples": SAMPLES.model_dump(),
        "champion": CHAMPION.model_dump(),
        "limits": {name: limit.model_dump(exclude_none=True) for name, limit in LIMITS.items()},
    }
    return Verdict.of(
        judged,
        model="patterns",
        identity=IDENTITY,
        self_test=self_test or [],
        champion=champion if released or judged.champion is not None else None,
        params=params,
    )
