"""A small client of a model served by Triton: seeds and labels in, images out.

Needs numpy and tritonclient only; an application installs `troika[client]`. The same call gives the same
images as long as the model's digest is the same.
"""

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from troika.errors import RequestError, ServerError

MAX_SEED = 2**63 - 1
_REFUSED = {"StatusCode.INVALID_ARGUMENT", "400"}


@dataclass(frozen=True)
class Generated:
    """Images and all that is needed to make them again."""

    images: NDArray[np.uint8]
    """(N, H, W, C), 0..255."""
    labels: NDArray[np.int64] | None
    """(N,); None if the model takes no label."""
    seeds: NDArray[np.int64]
    """(N,)."""
    model_digest: str
    """The bundle that made them, `sha256:<hex>`, as the server says."""


@dataclass(frozen=True)
class ModelInfo:
    """What the server says about its model."""

    name: str
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    conditional: bool
    """Whether a label is an input."""
    num_classes: int
    max_batch_size: int


class Client:
    """A connection to one served model; a context manager.

    Args:
        url: `host:port`, with or without `http://` or `grpc://`.
        protocol: `grpc` or `http`; must fit the port.
        timeout: seconds after which a single request is given up.
        model: the model's name; needed only where the server does not tell which models it has.

    Raises:
        RequestError: url, protocol or timeout is not usable, or none of several models was named.
        ServerError: nothing answers there.
    """

    def __init__(
        self,
        url: str,
        protocol: Literal["grpc", "http"] = "grpc",
        timeout: float = 30.0,
        model: str | None = None,
    ) -> None:
        if protocol not in {"grpc", "http"}:
            raise RequestError(f"protocol {protocol!r} is not known: give grpc or http")
        if not timeout > 0:
            raise RequestError(f"timeout must be more than 0 seconds, got {timeout}")
        self._url = url.removeprefix("http://").removeprefix("grpc://").rstrip("/")
        host, colon, port = self._url.rpartition(":")
        if not host or not colon or not port.isdecimal() or "/" in self._url:
            raise RequestError(f"url {url!r} is not usable: give host:port, such as localhost:8001")
        self._protocol = protocol
        self._triton, options = _flavour(protocol, timeout)
        self._limit = {"client_timeout": timeout} if protocol == "grpc" else {}
        self._connection = self._triton.InferenceServerClient(self._url, **options)
        try:
            self.model = self._read_model(model)
        except BaseException:
            self.close()
            raise

    def generate(
        self, count: int, seed: int = 0, labels: int | Sequence[int] | NDArray[np.int64] | None = None
    ) -> Generated:
        """Make `count` images; image i is drawn with seed + i. Many are asked for in several requests.

        Args:
            count: at least 1.
            seed: seed and seed + count - 1 must be in 0..2**63-1.
            labels: one class for all, or one per image, each in 0..num_classes-1. None takes the classes in
                turn, or nothing where the model is unconditional.

        Raises:
            RequestError: an argument is not usable (named), or the server refused the request.
            ServerError: the server failed, is too busy, cannot be reached, or changed its model in between.
        """
        count = _whole("count", count, 1, MAX_SEED)
        seed = _whole("seed", seed, 0, MAX_SEED)
        if seed + count - 1 > MAX_SEED:
            raise RequestError(f"seed must be at most {MAX_SEED - count + 1} for {count} images, got {seed}")
        rows = {"seed": np.arange(count, dtype=np.int64) + seed}
        chosen = self._labels(count, labels)
        if chosen is not None:
            rows["label"] = chosen

        images = np.empty((count, *self.model.image_shape), dtype=np.uint8)
        digests: set[str] = set()
        for start in range(0, count, self.model.max_batch_size):
            part = slice(start, start + self.model.max_batch_size)
            images[part], digest = self._infer({name: values[part] for name, values in rows.items()})
            digests |= digest
        if len(digests) != 1:
            raise ServerError(f"{self._url} changed its model between two requests ({digests}); ask again")
        return Generated(images, chosen, rows["seed"], digests.pop())

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _labels(
        self, count: int, labels: int | Sequence[int] | NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        classes = self.model.num_classes
        if not self.model.conditional:
            if labels is not None:
                raise RequestError(f"labels must be left out: {self.model.name} is unconditional")
            return None
        if labels is None:
            return np.arange(count, dtype=np.int64) % classes
        if isinstance(labels, np.ndarray):
            labels = labels.tolist()
        if not isinstance(labels, Sequence):
            return np.full(count, _whole("labels", labels, 0, classes - 1), dtype=np.int64)
        if len(labels) != count:
            raise RequestError(f"labels must be one for all or one per image: got {len(labels)} for count={count}")
        return np.array([_whole("labels", label, 0, classes - 1) for label in labels], dtype=np.int64)

    def _infer(self, rows: dict[str, NDArray[np.int64]]) -> tuple[NDArray[np.uint8], set[str]]:
        inputs = []
        for name, values in rows.items():
            entry = self._triton.InferInput(name, [len(values), 1], "INT64")
            entry.set_data_from_numpy(values[:, None])
            inputs.append(entry)
        result = self._ask(lambda: self._connection.infer(self.model.name, inputs, **self._limit))
        images = result.as_numpy("image")
        if images is None:
            raise ServerError(f"{self._url} answered without an image; is Triton's response cache on? Turn it off")
        return images, {digest.decode() for digest in result.as_numpy("model_digest").ravel()}

    def _read_model(self, name: str | None) -> ModelInfo:
        as_json = {"as_json": True} if self._protocol == "grpc" else {}
        if name is None:
            index = self._ask(lambda: self._connection.get_model_repository_index(**self._limit, **as_json))
            models = [entry["name"] for entry in (index.get("models", []) if as_json else index)]
            if len(models) != 1:
                raise RequestError(f"{self._url} serves {models}: say which one with model=")
            name = models[0]
        config = self._ask(lambda: self._connection.get_model_config(name, **self._limit, **as_json))
        config = config["config"] if as_json else config
        try:
            parameters = config["parameters"]
            (shape,) = (entry["dims"] for entry in config["output"] if entry["name"] == "image")
            height, width, channels = (int(size) for size in shape)
            return ModelInfo(
                name=name,
                image_shape=(height, width, channels),
                conditional=json.loads(parameters["conditional"]["string_value"]) is True,
                num_classes=int(parameters["num_classes"]["string_value"]),
                max_batch_size=int(config["max_batch_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self._url} serves {name}, which is not a Troika model: {error!r}") from None

    def _ask(self, request: Callable[[], Any]) -> Any:
        """Make one request; translate what can go wrong."""
        try:
            return request()
        except self._triton.InferenceServerException as error:
            words = error.message() or str(error)
            if error.status() in _REFUSED:
                raise RequestError(f"{self._url} refused the request: {words}") from None
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise self._late() from None
            if "connect" in words.lower():
                raise self._unreachable(words) from None
            raise ServerError(f"{self._url} failed: {words}") from None
        except TimeoutError:
            raise self._late() from None
        except (OSError, HTTPException) as error:
            # HTTPException: an answer that is not HTTP, such as that of a gRPC port.
            raise self._unreachable(str(error)) from None

    def _late(self) -> ServerError:
        return ServerError(f"{self._url} did not answer in time; give a larger timeout, or ask later")

    def _unreachable(self, words: str) -> ServerError:
        return ServerError(
            f"nothing answers {self._protocol} requests at {self._url} ({words}); start a server with "
            "`troika serve`, or check host and port (HTTP and gRPC have different ports)"
        )


def _flavour(protocol: str, timeout: float) -> tuple[Any, dict[str, Any]]:
    """The half of tritonclient that is wanted, imported only now, and its options for a connection."""
    try:
        if protocol == "grpc":
            import tritonclient.grpc as triton  # noqa: PLC0415

            return triton, {}
        import tritonclient.http as triton  # noqa: PLC0415

    except (ImportError, RuntimeError) as error:
        raise RequestError(f"protocol {protocol} needs `pip install troika[client]`: {error}") from None
    return triton, {"connection_timeout": timeout, "network_timeout": timeout}


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        raise RequestError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise RequestError(f"{name} must be in {low}..{high}, got {value!r}")
    return number
