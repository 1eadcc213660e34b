"""What a verdict was measured against, in one small file, so that the live model can be measured against the same.

It holds the evaluator and how it sees the held-out images, not the images themselves. Needs no training
framework. Does not decide anything: gate.py holds figures against limits, the quality probe against what the
verdict promised.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from troika.datasets.checks import is_constant
from troika.datasets.contract import Dataset, Images, Labels
from troika.errors import StoreError
from troika.quality.evaluator import Evaluator
from troika.quality.judge import to_levels
from troika.quality.measures import frechet_distance, total_variation

_ROWS = 1000


@dataclass(frozen=True)
class Reference:
    """The real side of a judgement."""

    evaluator: Evaluator
    features: NDArray[np.float32]
    """(N, D): the evaluator's features of the held-out images."""
    labels: Labels
    """(N,): their classes."""
    classes: int
    levels: int
    """Grey levels of the real images, see `to_levels`."""

    @classmethod
    def of(cls, dataset: Dataset, evaluator: Evaluator) -> Self:
        """The reference of a dataset's held-out images."""
        held_out = dataset.held_out
        starts = range(0, len(held_out.images), _ROWS)
        features = [evaluator.look_at(held_out.images[start : start + _ROWS])[0] for start in starts]
        labels = np.asarray(held_out.labels, np.int64)
        return cls(evaluator, np.concatenate(features), labels, len(dataset.info.classes), dataset.info.levels)

    def to_bytes(self) -> bytes:
        """The file's content; the same reference gives the same bytes."""
        file = io.BytesIO()
        # np.savez gives every entry the same fixed date.
        np.savez(
            file,
            evaluator=np.frombuffer(self.evaluator.onnx, np.uint8),
            features=self.features,
            labels=self.labels,
            classes=np.int64(self.classes),
            levels=np.int64(self.levels),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read `to_bytes` back.

        Raises:
            StoreError: it is not that.
        """
        try:
            with np.load(io.BytesIO(content)) as file:
                features, labels = file["features"], file["labels"]
                evaluator = Evaluator(file["evaluator"].tobytes())
                classes, levels = int(file["classes"]), int(file["levels"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"what should be the reference of a verdict is not one: {error}") from None
        if features.ndim != 2 or labels.shape != (len(features),) or len(features) < 2:
            raise StoreError(f"the reference of a verdict holds {features.shape} features, {labels.shape} labels")
        return cls(evaluator, features, labels, classes, levels)

    def figures(self, images: Images, labels: Labels | None) -> dict[str, float]:
        """The gate's figures of one batch of generated images uint8 (N, H, W, C).

        Args:
            images: at least two.
            labels: (N,), what was asked for; None where the model takes no label.
        """
        mix = np.bincount(self.labels, minlength=self.classes)
        features, seen = self.evaluator.look_at(to_levels(images, self.levels))
        found = {
            "frechet_distance": frechet_distance(features, self.features),
            "class_balance": total_variation(np.bincount(seen, minlength=self.classes), mix),
            "constant_images": float(is_constant(images).mean()),
        }
        if labels is not None:
            found["label_agreement"] = float((seen == labels).mean())
        return found


def digest_of_reference(content: bytes) -> str:
    """`sha256:<hex>`, as a verdict names its reference."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def expected_ranges(verdict: Mapping[str, Any], confidence: float = 0.999) -> dict[str, tuple[float, float]]:
    """Figure -> where one more batch of the same model lies with this probability, by its verdict.

    A verdict gives the mean of k batches and its 95 % interval, of half-width t(k-1) s / sqrt(k). One more batch
    lies within t'(k-1) s sqrt(1 + 1/k) of that mean (a prediction interval). For shares, whose interval is
    Wilson's, that is wider than it need be.
    """
    batches = int(verdict["params"]["samples"]["batches"])
    degrees = batches - 1
    measured, wanted = stats.t.ppf(0.975, degrees), stats.t.ppf((1 + confidence) / 2, degrees)
    ranges = {}
    for measure in verdict["measures"]:
        value, low, high = (measure.get(name) for name in ("value", "low", "high"))
        if value is None or low is None or high is None:
            continue
        half = max(high - value, value - low) * math.sqrt(batches + 1) * wanted / measured
        ranges[measure["name"]] = (value - half, value + half)
    return ranges


def limits_of(verdict: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Figure -> (`at_least` or `at_most`, value): what the gate asked for."""
    found: Sequence[tuple[str, Mapping[str, float]]] = list(verdict["params"]["limits"].items())
    return {name: next(iter(limit.items())) for name, limit in found}
