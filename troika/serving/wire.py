"""What client and server say to each other, without saying it: requests, answers, and what errors mean.

Client and AsyncClient share it; neither protocol nor input and output is here.
"""

import json
import operator
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from troika.errors import DeadlineError, OverloadedError, RequestError, ServerError

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["grpc", "http"]
Labels = int | Sequence[int] | NDArray[np.int64] | None
Rows = dict[str, NDArray[Any]]

MAX_SEED = 2**63 - 1
MAX_LATENT = 10.0
MAX_COUNT = 10_000_000
"""All images of one call lie in memory together."""
OUTPUTS = ("image", "model_digest", "seed_used")
_REFUSED = {"StatusCode.INVALID_ARGUMENT", "400", "405", "413", "415", "431"}
_BUSY = {"StatusCode.UNAVAILABLE", "503"}
_LATE = {"StatusCode.DEADLINE_EXCEEDED", "499"}
_FIRST_PAUSE_SECONDS = 0.05


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


def check_address(url: str, protocol: str, timeout: float, retries: int) -> str:
    """`host:port` of a URL; RequestError if it or another argument of a client is not usable."""
    if protocol not in {"grpc", "http"}:
        raise RequestError(f"protocol {protocol!r} is not known: give grpc or http")
    if not 0 < timeout < float("inf"):
        raise RequestError(f"timeout must be more than 0 seconds, got {timeout}")
    _whole("retries", retries, 0, 100)
    address = url.removeprefix("http://").removeprefix("grpc://").rstrip("/")
    host, colon, port = address.rpartition(":")
    if not host or not colon or not port.isdecimal() or "/" in address:
        raise RequestError(f"url {url!r} is not usable: give host:port, such as localhost:8001")
    return address


def read_model_info(name: str, config: Mapping[str, Any], address: str) -> ModelInfo:
    """What a model's configuration says; ServerError if the model is not one of ours."""
    try:
        parameters = config["parameters"]
        (shape,) = (entry["dims"] for entry in config["output"] if entry["name"] == "image")
        (latent,) = (entry["dims"] for entry in config["input"] if entry["name"] == "latent")
        height, width, channels = (int(size) for size in shape)
        return ModelInfo(
            name=name,
            image_shape=(height, width, channels),
            conditional=json.loads(parameters["conditional"]["string_value"]) is True,
            num_classes=int(parameters["num_classes"]["string_value"]),
            latent_size=int(latent[0]),
            max_batch_size=int(config["max_batch_size"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{address} serves {name}, which is not a Troika model: {error!r}") from None


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


def inputs_and_outputs(triton: Any, rows: Rows) -> tuple[list[Any], list[Any]]:
    """The same in the terms of tritonclient's `grpc` or `http` module."""
    inputs = []
    for name, values in rows.items():
        entry = triton.InferInput(name, list(values.shape), "FP32" if name == "latent" else "INT64")
        entry.set_data_from_numpy(values)
        inputs.append(entry)
    return inputs, [triton.InferRequestedOutput(name) for name in OUTPUTS]


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


def meaning_of(error: Exception, address: str, protocol: str) -> RequestError | ServerError | None:
    """What an error of tritonclient, or of what is below it, means; None if it is neither's."""
    if callable(getattr(error, "status", None)):
        return _meaning_of_answer(error, address, protocol)
    if isinstance(error, TimeoutError):
        return _late(address)
    # HTTPException: an answer that is not HTTP, such as that of a gRPC port. aiohttp has errors of its own.
    if isinstance(error, OSError | HTTPException) or type(error).__module__.startswith("aiohttp."):
        return _unreachable(str(error) or type(error).__name__, address, protocol)
    return None


def _meaning_of_answer(error: Any, address: str, protocol: str) -> RequestError | ServerError:
    """The same for tritonclient's InferenceServerException."""
    code, words = error.status(), error.message() or str(error)
    meaning: RequestError | ServerError
    if code in _REFUSED:
        meaning = RequestError(f"{address} refused the request: {words}")
    elif code in _LATE or "timeout" in words.lower():
        meaning = _late(address)
    elif "restricted" in words:
        meaning = RequestError(f"{address} does not tell which models it has: name one with model=")
    elif "connect" in words.lower() or "socket closed" in words.lower():
        meaning = _unreachable(words, address, protocol)
    elif code in _BUSY:
        meaning = OverloadedError(f"{address} takes no more requests now: {words}; ask again later")
    else:
        meaning = ServerError(f"{address} failed: {words}")
    return meaning


def _late(address: str) -> DeadlineError:
    return DeadlineError(f"{address} did not answer in time; give a larger timeout, or ask later")


def _unreachable(words: str, address: str, protocol: str) -> ServerError:
    return ServerError(
        f"nothing answers {protocol} requests at {address} ({words}); start a server with "
        "`troika serve`, or check host and port (HTTP and gRPC have different ports)"
    )


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
    if not isinstance(labels, Sequence):
        return {"label": np.full((count, 1), _whole("labels", labels, 0, classes - 1), dtype=np.int64)}
    if len(labels) != count:
        raise RequestError(f"labels must be one for all or one per image: got {len(labels)} for count={count}")
    return {"label": np.array([[_whole("labels", label, 0, classes - 1)] for label in labels], dtype=np.int64)}


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        raise RequestError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise RequestError(f"{name} must be in {low}..{high}, got {value!r}")
    return number
