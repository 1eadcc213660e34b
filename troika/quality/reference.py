"""What a verdict was measured against, in one small file, so that the live model can be measured against the same.

It holds the evaluator and how it sees the held-out images, not the images themselves. Needs no training
framework. Does not decide anything: gate.py holds figures against limits, the quality probe against what the
verdict promised.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from troika.datasets.checks import is_constant
from troika.datasets.contract import Images, Labels
from troika.errors import StoreError
from troika.quality.evaluator import Evaluator
from troika.quality.measures import RealKernel, frechet_distance, total_variation
from troika.quality.neighbours import RealNeighbourhood
from troika.quality.sanity import Look, sanity

NEIGHBOURS = 5


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
    look: Look | None = None
    """Of the real images; None in references of earlier versions."""

    def to_bytes(self) -> bytes:
        """The file's content; the same reference gives the same bytes."""
        file = io.BytesIO()
        # np.savez gives every entry the same fixed date.
        look = {} if self.look is None else {"shape": self.look.shape, "look": astuple(self.look)[1:]}
        np.savez(
            file,
            evaluator=np.frombuffer(self.evaluator.onnx, np.uint8),
            features=self.features,
            labels=self.labels,
            classes=np.int64(self.classes),
            levels=np.int64(self.levels),
            **{name: np.asarray(value) for name, value in look.items()},
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
                look = None
                if "look" in file:
                    look = Look(tuple(file["shape"].tolist()), *map(float, file["look"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"what should be the reference of a verdict is not one: {error}") from None
        if features.ndim != 2 or labels.shape != (len(features),) or len(features) < 2:
            raise StoreError(f"the reference of a verdict holds {features.shape} features, {labels.shape} labels")
        return cls(evaluator, features, labels, classes, levels, look)

    def figures(self, images: Images, labels: Labels | None) -> dict[str, float]:
        """Return the gate's figures of one batch of generated images uint8 (N, H, W, C).

        Args:
            images: more than five, in random order: where the reference holds fewer, the first ones alone are
                compared with their neighbours.
            labels: (N,), what was asked for; None where the model takes no label.
        """
        return self.figures_of(images, *self.evaluator.look_at(to_levels(images, self.levels)), labels)

    def figures_of(
        self, images: Images, features: NDArray[np.float32], seen: Labels, labels: Labels | None
    ) -> dict[str, float]:
        """The same, of images that the evaluator has seen: as `features` (N, D) and classes `seen` (N,)."""
        mix = np.bincount(self.labels, minlength=self.classes)
        found = {
            "frechet_distance": frechet_distance(features, self.features),
            "class_balance": total_variation(np.bincount(seen, minlength=self.classes), mix),
            "constant_images": float(is_constant(images).mean()),
        }
        # Neighbours depend on how many meet how many, so it is always as many.
        count = min(len(features), len(self.features))
        found["kernel_distance"] = self._kernel(count).distance(features[:count])
        if count > NEIGHBOURS:
            found |= vars(self._neighbourhood(count).of(features[:count]))
        if self.look is not None:
            sane = sanity(images, self.look)
            found["repeated_images"] = sane.repeated
            found["brightness_gap"], found["contrast_ratio"] = sane.brightness_gap, sane.contrast_ratio
        if labels is not None and self.classes > 1:
            found["label_agreement"] = float((seen == labels).mean())
        return found

    @cached_property
    def _kernels(self) -> dict[int, RealKernel]:
        return {}

    def _kernel(self, count: int) -> RealKernel:
        if count not in self._kernels:
            self._kernels[count] = RealKernel(self.features[:count])
        return self._kernels[count]

    @cached_property
    def _neighbourhoods(self) -> dict[int, RealNeighbourhood]:
        return {}

    def _neighbourhood(self, count: int) -> RealNeighbourhood:
        if count not in self._neighbourhoods:
            self._neighbourhoods[count] = RealNeighbourhood(self.features[:count], NEIGHBOURS)
        return self._neighbourhoods[count]


def to_levels(images: Images, levels: int) -> Images:
    """Images rounded to the number of evenly spaced grey levels that the real ones have (2..256)."""
    if not 2 <= levels < 256:
        return images
    step = 255 / (levels - 1)
    rounded: Images = np.rint(np.rint(images / step) * step).astype(np.uint8)
    return rounded


def digest_of_reference(content: bytes) -> str:
    """`sha256:<hex>`, as a verdict names its reference."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def expected_ranges(verdict: Mapping[str, Any], confidence: float = 0.999) -> dict[str, tuple[float, float]]:
    """Figure -> where one more batch of the same model lies with this probability, by its verdict.

    A verdict gives the mean of k batches and its 95 % interval, of half-width t(k-1) s / sqrt(k). One more batch
    lies within t'(k-1) s sqrt(1 + 1/k) of that mean (a prediction interval). For shares, whose interval is
    Wilson's, that is wider than it need be.
    """
    # More than asked for where the first look was inconclusive; verdicts of version 1 do not say.
    batches = int(verdict.get("batches", verdict["params"]["samples"]["batches"]))
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
    found: dict[str, tuple[str, float]] = {}
    # Verdicts of earlier versions have their limits among the parameters only.
    limits = [(name, limit) for name, limit in verdict["params"]["limits"].items()]
    for name, holder in limits + [(measure["name"], measure) for measure in verdict["measures"]]:
        for side in ("at_least", "at_most"):
            if holder.get(side) is not None:
                found[name] = (side, float(holder[side]))
    return found
