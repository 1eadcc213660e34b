"""The evaluator: a small classifier of real images, whose features and labels judge generated ones.

It is an artifact with a digest of its own: an ONNX graph, so judging needs no training framework
(evaluator_training.py does). Inception features say nothing about small grey digits; a network that has learned
these very classes does. Where there is one class only, it has learned to tell which way up an image is.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from troika.datasets.contract import Images, Split
from troika.errors import EvaluatorError
from troika.onnx_session import onnxruntime_errors, open_session
from troika.params import Params
from troika.quality.rows import images_at_once, on_all_cores, parts_of

TURNS = 4


class EvaluatorParams(Params):
    """Section `train_evaluator` of params.yaml."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    features: int = Field(gt=0)
    seed: int = Field(ge=0)


class EvaluatorFacts(BaseModel):
    """What an evaluator's file says of itself, in the graph's `metadata_props`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    dataset_content_hash: str
    """Of the dataset on whose training split it was trained."""
    task: Literal["classes", "turns"]
    """What it has learned to tell: classes, or (where there is one only) which way up an image is."""
    accuracy: float = Field(ge=0, le=1)
    """At that task, on the held-out images of the same dataset."""
    held_out: int = Field(gt=0)
    """How many those are."""
    params: EvaluatorParams

    @classmethod
    def read(cls, properties: Mapping[str, str]) -> Self:
        """From the graph's properties; pydantic's ValidationError or ValueError if they are not these."""
        values: dict[str, Any] = dict(properties)
        return cls.model_validate({**values, "params": json.loads(values.get("params", "null"))})

    def properties(self) -> dict[str, str]:
        """For the graph."""
        values = {name: str(value) for name, value in self.model_dump(exclude={"params"}).items()}
        return {**values, "params": json.dumps(self.params.model_dump(), sort_keys=True)}


@dataclass(frozen=True)
class Evaluator:
    """An ONNX graph: `image` uint8 (batch, H, W, C) -> `features` (batch, D), `logits` (batch, K).

    Where K is 1, `turns` (batch, 4) is a third output.
    """

    onnx: bytes

    @classmethod
    def open(cls, path: Path, dataset_content_hash: str | None = None) -> Self:
        """Read the file that the step train_evaluator wrote.

        Args:
            path: of the ONNX file.
            dataset_content_hash: of the dataset that it must have been trained on; None: any.

        Raises:
            EvaluatorError: it is missing, damaged, no evaluator, or of another dataset.
        """
        again = "run train_evaluator"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EvaluatorError(f"evaluator {path} cannot be read: {error.strerror}; {again}") from None
        found = cls(content)
        try:
            inputs = [entry.name for entry in found._session.get_inputs()]
            outputs = [entry.name for entry in found._session.get_outputs()]
        except onnxruntime_errors() as error:
            raise EvaluatorError(f"evaluator {path} is damaged: {error}; {again} again") from None
        if inputs != ["image"] or outputs[:2] != ["features", "logits"]:
            raise EvaluatorError(
                f"{path} is no evaluator: its graph gives {', '.join(outputs)} for {', '.join(inputs)}, not "
                f"features and logits for image; {again}"
            )
        try:
            facts = found.facts
        except ValueError as error:
            problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, problem["loc"])) or "params"
            raise EvaluatorError(
                f"{path} does not say what it was made from: {where}: {problem['msg']}; {again} again"
            ) from None
        if dataset_content_hash not in (None, facts.dataset_content_hash):
            raise EvaluatorError(
                f"{path} was trained on dataset {facts.dataset_content_hash}, but this is {dataset_content_hash}; "
                f"{again} on this dataset"
            )
        return found

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the file."""
        return f"sha256:{hashlib.sha256(self.onnx).hexdigest()}"

    @cached_property
    def _session(self) -> Any:
        return open_session(self.onnx)

    @cached_property
    def facts(self) -> EvaluatorFacts:
        """What the file says of itself; a ValueError where it says nothing."""
        return EvaluatorFacts.read(self._session.get_modelmeta().custom_metadata_map)

    @property
    def task(self) -> Literal["classes", "turns"]:
        """What it has learned to tell."""
        return "turns" if any(entry.name == "turns" for entry in self._session.get_outputs()) else "classes"

    def look_at(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features (N, D) and the most likely class (N,) of images uint8 (N, H, W, C)."""
        session = self._session

        def look(part: slice) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            features, logits = session.run(["features", "logits"], {"image": np.ascontiguousarray(images[part])})
            return features, logits.argmax(axis=1)

        found = on_all_cores(look, parts_of(len(images), images_at_once(*images.shape[1:3])))
        features, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return features, classes.astype(np.int64)

    def accuracy(self, split: Split) -> float:
        """Share of images whose class it tells right; where there is one class, of turned images, which turn."""
        if self.task == "classes":
            return float((self.look_at(split.images)[1] == split.labels).mean())
        right = 0
        for part in parts_of(len(split), images_at_once(*split.images.shape[1:3])):
            images = np.asarray(split.images[part])
            for turn in range(TURNS):
                seen = self._session.run(["turns"], {"image": np.ascontiguousarray(turned(images, turn))})[0]
                right += int((seen.argmax(axis=1) == turn).sum())
        return right / (TURNS * len(split))


def turned(images: Images, turn: int) -> Images:
    """Images (N, H, W, C) turned by 0..3 quarters; where they are not square, turned over and mirrored."""
    if images.shape[1] == images.shape[2]:
        return np.rot90(images, turn, axes=(1, 2))
    return images[:, :: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
