"""What client and server say to each other, without saying it: requests, answers, and what errors mean.

Client and AsyncClient share it; neither protocol nor input and output is here.
"""

import json
import operator
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from troika.errors import DeadlineError, RequestError, ServerError
from troika.serving.address import check_host_port

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["grpc", "http"]
Label = int | str
Labels = Label | Sequence[Label] | NDArray[Any] | None
"""Numbers or names of classes."""
Rows = dict[str, NDArray[Any]]

LONGEST_TIMEOUT = 1e6
"""Seconds. What a protocol or the operating system can hold ends at some number above."""
MAX_SEED = 2**63 - 1
MAX_LATENT = 10.0
MAX_COUNT = 10_000_000
"""All images of one call lie in memory together."""
OUTPUTS = ("image", "model_digest", "seed_used")
_FIRST_PAUSE_SECONDS = 0.05
_MOST_NAMES_SHOWN = 20


@dataclass(frozen=True)
class Generated:
    """Images and all that is needed to make them again."""

    images: NDArray[np.uint8]
    """(N, H, W, C), 0..255."""
    labels: NDArray[np.int64] | None
    """(N,); None if the model takes no label."""
    seeds: NDArray[np.int64]
    """(N,), as the server says; -1 where a latent was given."""
    model_digest: str
    """The bundle that made them, `sha256:<hex>`, as the server says."""

    def to_pil(self) -> "list[Image]":
        """The images for Pillow, grey or RGB."""
        from PIL import Image  # noqa: PLC0415 - numpy is enough for most

        return [Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image) for image in self.images]


@dataclass(frozen=True)
class ModelInfo:
    """What the server says about its model."""

    name: str
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    conditional: bool
    """Whether a label is an input."""
    num_classes: int
    latent_size: int
    max_batch_size: int
    classes: tuple[str, ...] = ()
    """Names in the order of their labels; empty for an unconditional model."""

    def label_of(self, name: str) -> int:
        """Return the label of the class called `name`.

        Raises:
            RequestError: no class is called so, or the model takes no labels.
        """
        if not self.conditional:
            raise RequestError(f"labels must be left out: {self.name} is unconditional")
        if name not in self.classes:
            raise RequestError(f"labels: {self.name} has no class {name!r}; it has {_some(self.classes)}")
        return self.classes.index(name)


def check_address(url: str, protocol: str, timeout: float, retries: int, model: str | None = None) -> str:
    """`host:port` of a URL; RequestError if it or another argument of a client is not usable."""
    if protocol not in {"grpc", "http"}:
        raise RequestError(f"protocol {protocol!r} is not known: give grpc or http")
    if not (isinstance(timeout, Real) and 0 < timeout <= LONGEST_TIMEOUT):
        raise RequestError(f"timeout must be more than 0 and at most {LONGEST_TIMEOUT:g} seconds, got {timeout!r}")
    if model is not None and not (isinstance(model, str) and model and model.isprintable()):
        raise RequestError(f"model must be the name of a model, or left out, got {model!r}")
    _whole("retries", retries, 0, 100)
    return check_host_port(url)


def read_model_info(name: str, config: Mapping[str, Any], address: str) -> ModelInfo:
    """What a model's configuration says; ServerError if the model is not one of ours."""
    try:
        parameters = config["parameters"]
        (shape,) = (entry["dims"] for entry in config["output"] if entry["name"] == "image")
        (latent,) = (entry["dims"] for entry in config["input"] if entry["name"] == "latent")
        height, width, channels = (int(size) for size in shape)
        conditional = json.loads(parameters["conditional"]["string_value"]) is True
        num_classes = int(parameters["num_classes"]["string_value"])
        return ModelInfo(
            name=name,
            image_shape=(height, width, channels),
            conditional=conditional,
            num_classes=num_classes,
            latent_size=int(latent[0]),
            max_batch_size=int(config["max_batch_size"]),
            classes=_class_names(parameters, num_classes) if conditional else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{address} serves {name}, which is not a Troika model: {error!r}") from None


def _class_names(parameters: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of the classes; their numbers where the bundle is older than the names."""
    if "classes" not in parameters:
        return tuple(map(str, range(count)))
    names = json.loads(parameters["classes"]["string_value"])
    if len(names) != count:
        raise ValueError(f"{len(names)} class names for {count} classes")
    return tuple(map(str, names))


def only_model(names: Sequence[str], address: str) -> str:
    """The one name, or RequestError."""
    if len(names) != 1:
        raise RequestError(f"{address} serves {list(names)}: say which one with model=")
    return names[0]


def seed_rows(model: ModelInfo, count: int, seed: int, labels: Labels) -> Rows:
    """Inputs for `count` images, seed + i for image i; RequestError names what is wrong."""
    count = _whole("count", count, 1, MAX_COUNT)
    seed = _whole("seed", seed, 0, MAX_SEED)
    if seed + count - 1 > MAX_SEED:
        raise RequestError(f"seed must be at most {MAX_SEED - count + 1} for {count} images, got {seed}")
    return {"seed": np.arange(count, dtype=np.int64)[:, None] + seed, **_label_rows(model, count, labels)}


def latent_rows(model: ModelInfo, latents: NDArray[np.float32], labels: Labels) -> Rows:
    """Inputs for one image a row of `latents`; RequestError names what is wrong."""
    try:
        rows = np.asarray(latents, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(f"latents must be numbers: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != model.latent_size or not len(rows):
        raise RequestError(f"latents must have shape (N, {model.latent_size}), got {rows.shape}")
    if not (np.abs(rows) <= MAX_LATENT).all():
        raise RequestError(f"latents must be numbers in {-MAX_LATENT:g}..{MAX_LATENT:g}")
    return {"latent": rows, **_label_rows(model, len(rows), labels)}


def split(rows: Rows, size: int) -> Iterator[Rows]:
    """Parts of at most `size` images."""
    for start in range(0, len(next(iter(rows.values()))), size):
        yield {name: values[start : start + size] for name, values in rows.items()}


def read_answers(answers: Sequence[Any], rows: Rows, address: str) -> Generated:
    """Put the answers to all parts together; ServerError if they are not of one model, or hold nothing."""
    found: dict[str, list[Any]] = {name: [answer.as_numpy(name) for answer in answers] for name in OUTPUTS}
    if any(values is None for part in found.values() for values in part):
        raise ServerError(f"{address} answered without an image; is Triton's response cache on? Turn it off")
    digests = {_digest(row) for part in found["model_digest"] for row in part}
    if len(digests) != 1:
        raise ServerError(f"{address} changed its model between two requests ({digests}); ask again")
    labels = rows["label"][:, 0] if "label" in rows else None
    return Generated(
        np.concatenate(found["image"]), labels, np.concatenate(found["seed_used"])[:, 0], digests.pop()
    )


def _digest(row: NDArray[Any]) -> str:
    """Return `sha256:<hex>` from one row of `model_digest`: 32 bytes, or the text of a bundle before version 2."""
    return f"sha256:{row.tobytes().hex()}" if row.dtype == np.uint8 else str(row[0].decode())


class Patience:
    """How long one request, with all its repetitions, may still take, and whether it is worth repeating."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._end = time.monotonic() + timeout
        self._retries = retries
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def seconds(self) -> float:
        """What is left; never 0, which libraries take for `no limit`."""
        return max(self._end - time.monotonic(), 0.001)

    def pause_after(self, error: ServerError) -> float:
        """Seconds to wait before the next try; raises the error if there should be none.

        Images are a pure function of the request, so all requests are safe to repeat; those that were refused
        or came too late are not worth it.
        """
        pause = random.uniform(0.5, 1.0) * self._pause  # noqa: S311 - keeps many clients apart
        if isinstance(error, DeadlineError) or self._retries == 0 or pause >= self.seconds:
            raise error
        self._retries -= 1
        self._pause *= 2
        return pause


def _label_rows(model: ModelInfo, count: int, labels: Labels) -> Rows:
    classes = model.num_classes
    if not model.conditional:
        if labels is not None:
            raise RequestError(f"labels must be left out: {model.name} is unconditional")
        return {}
    if labels is None:
        return {"label": np.arange(count, dtype=np.int64)[:, None] % classes}
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        return {"label": np.full((count, 1), _label(model, labels), dtype=np.int64)}
    if len(labels) != count:
        raise RequestError(f"labels must be one for all or one per image: got {len(labels)} for count={count}")
    return {"label": np.array([[_label(model, label)] for label in labels], dtype=np.int64)}


def _label(model: ModelInfo, label: Any) -> int:
    return model.label_of(label) if isinstance(label, str) else _whole("labels", label, 0, model.num_classes - 1)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMES_SHOWN]))
    return f"{shown} and {len(names) - _MOST_NAMES_SHOWN} more" if len(names) > _MOST_NAMES_SHOWN else shown


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        raise RequestError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise RequestError(f"{name} must be in {low}..{high}, got {value!r}")
    return number
