"""Triton's side of a model: (seed or latent, label) -> image, and the digest of the bundle that made it.

Copied verbatim into every bundle as `1/model.py`, so that a bundle holds the very code that serves it. Runs
inside Triton's Python backend, where Troika is not installed: numpy and ONNX Runtime are, Pillow for PNG.
"""

import hashlib
import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]

MAX_SEED = 2**63 - 1
MAX_LATENT = 10.0
"""No normal number that can be drawn is larger; beyond, the network only makes noise."""


class TritonPythonModel:
    """One instance of the model; Triton calls `initialize` once, `execute` with every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph. An exception here makes Triton exit, and the old pods serve on."""
        config = json.loads(args["model_config"])
        parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        self._classes = int(parameters["num_classes"])
        dims = {entry["name"]: [int(size) for size in entry["dims"]] for entry in config["input"]}
        self._conditional = "label" in dims
        (self._latent_size,) = dims["latent"]

        # <bundle>/model_repository/<model> is what Triton calls the model repository.
        bundle = Path(args["model_repository"]).parents[1]
        digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).digest()
        self._digest = np.frombuffer(digest, dtype=np.uint8)
        self._cache = _Cache(int(parameters["cache_bytes"]))
        self._graph: _InProcess | _AnotherModel
        if "graph_model" in parameters:
            self._graph = _AnotherModel(parameters["graph_model"])
        else:
            folder = bundle / "graph_repository" / f"{config['name']}_graph"
            self._graph = _InProcess(folder / args["model_version"] / "model.onnx")
            self._run_largest_batch(int(config["max_batch_size"]))
        # Triton counts a refusal as a success: its own counters do not show a model that refuses everything.
        self._refusals = pb_utils.MetricFamily(
            name="troika_model_refused_total",
            description="Requests that the model answered with an error of its own, such as a label out of range",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._refused = self._refusals.Metric(labels={"model": config["name"], "version": args["model_version"]})

    def _run_largest_batch(self, count: int) -> None:
        """Now, not while somebody waits, ONNX Runtime takes most of the memory that it will need.

        Triton's own warm-up does not make it: its rows are all the same, and that image is made once.
        """
        self._make([(seed, 0) for seed in range(count)])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; a wrong one gets its own error and does not harm those it was batched with.

        Each request holds `seed` int64 (n, 1) or `latent` float32 (n, L) and, when conditional, `label` int64
        (n, 1). Its answer is `image` uint8 (n, H, W, C), `model_digest` uint8 (n, 32), `seed_used` int64 (n, 1),
        which is -1 for a latent, and, if asked for, `png` uint8 (n, longest), zeros after the end of a shorter
        one, with `png_size` int64 (n, 1).

        No output is text: Triton 2.51 dies of a request that asks for the classification of one.
        """
        asked = [self._rows(request) for request in requests]
        images = self._images([row for rows in asked if isinstance(rows, list) for row in rows])
        self._refused.increment(sum(isinstance(rows, str) for rows in asked))
        return [
            self._answer(request, rows, images) if isinstance(rows, list) else _refusal(rows)
            for request, rows in zip(requests, asked, strict=True)
        ]

    def _rows(self, request: Any) -> "list[tuple[int | bytes, int]] | str":
        """What a request asks for, (seed or bytes of the latent, label) for each image; or what is wrong with it.

        Unchecked, label -1 would silently mean the last class.
        """
        seed, latent, label = (_numbers(request, name) for name in ("seed", "latent", "label"))
        if (seed is None) == (latent is None):
            return "give either seed or latent"
        if self._conditional and label is None:
            return f"label is missing: give one class in 0..{self._classes - 1} for each image"
        # As plain numbers: for the few of a request that is quicker than arrays.
        seeds = [] if seed is None else seed[:, 0].tolist()
        if seeds and min(seeds) < 0:
            return f"seed must be in 0..{MAX_SEED}, got {min(seeds)}"
        # Not `> MAX_LATENT`, which NaN is not.
        if latent is not None and not (np.abs(latent) <= MAX_LATENT).all():
            return f"latent must hold numbers in {-MAX_LATENT:g}..{MAX_LATENT:g}"
        sources = seeds if seed is not None else [row.tobytes() for row in latent]
        labels = [0] * len(sources) if label is None else label[:, 0].tolist()
        if labels and not 0 <= min(labels) <= max(labels) < self._classes:
            wrong = next(value for value in labels if not 0 <= value < self._classes)
            return f"label must be in 0..{self._classes - 1}, got {wrong}"
        return list(zip(sources, labels, strict=True))

    def _images(self, rows: "list[tuple[int | bytes, int]]") -> "dict[tuple[int | bytes, int], Any]":
        """An image (H, W, C) for every different row; one run of the graph for those that are not in the cache."""
        images = {row: self._cache.get(row) for row in rows}
        missing = [row for row, image in images.items() if image is None]
        if missing:
            for row, image in zip(missing, self._make(missing), strict=True):
                images[row] = image
                self._cache.put(row, image)
        return images

    def _make(self, rows: "list[tuple[int | bytes, int]]") -> Any:
        """Images (N, H, W, C) by one run of the graph."""
        seeds = np.full((len(rows), 1), -1, dtype=np.int64)
        latents = np.zeros((len(rows), self._latent_size), dtype=np.float32)
        for number, (source, _) in enumerate(rows):
            if isinstance(source, bytes):
                latents[number] = np.frombuffer(source, dtype=np.float32)
            else:
                seeds[number] = source
        feed = {"seed": seeds, "latent": latents}
        if self._conditional:
            feed["label"] = np.array([[label] for _, label in rows], dtype=np.int64)
        return self._graph.run(feed)

    def _answer(self, request: Any, rows: "list[tuple[int | bytes, int]]", images: Any) -> Any:
        asked = request.requested_output_names()
        made = [images[row] for row in rows]
        tensors = []
        if "image" in asked:
            tensors.append(pb_utils.Tensor("image", np.stack(made)))
        if "model_digest" in asked:
            tensors.append(pb_utils.Tensor("model_digest", np.tile(self._digest, (len(rows), 1))))
        if "seed_used" in asked:
            seeds = [[source if isinstance(source, int) else -1] for source, _ in rows]
            tensors.append(pb_utils.Tensor("seed_used", np.array(seeds, dtype=np.int64)))
        if "png" in asked or "png_size" in asked:
            files = [_png(image) for image in made]
            longest = max(map(len, files))
            padded = np.frombuffer(b"".join(file.ljust(longest, b"\0") for file in files), dtype=np.uint8)
            sizes = np.array([[len(file)] for file in files], dtype=np.int64)
            pictures = {"png": padded.reshape(len(files), longest), "png_size": sizes}
            tensors += [pb_utils.Tensor(name, values) for name, values in pictures.items() if name in asked]
        return pb_utils.InferenceResponse(output_tensors=tensors)


class _InProcess:
    """The graph in ONNX Runtime, in this process."""

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - beside Triton's own ONNX Runtime there need be no second one

        options = ort.SessionOptions()
        # Several instances of one thread each beat one of several threads, which spin while idle.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # A plan for every size of batch takes memory and, where sizes vary with the load, saves no time.
        options.enable_mem_pattern = False
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, feed: dict[str, Any]) -> Any:
        """Images (N, H, W, C)."""
        return self._session.run(["image"], feed)[0]


class _AnotherModel:
    """The graph as a model of its own in the same Triton, such as its onnxruntime backend runs on a GPU."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(self, feed: dict[str, Any]) -> Any:
        """Images (N, H, W, C)."""
        request = pb_utils.InferenceRequest(
            model_name=self._name,
            requested_output_names=["image"],
            inputs=[pb_utils.Tensor(name, values) for name, values in feed.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise pb_utils.TritonModelException(f"{self._name}: {response.error().message()}")
        return pb_utils.get_output_tensor_by_name(response, "image").as_numpy()


class _Cache:
    """The images that were asked for last.

    Triton's own response cache keeps error answers too and gives them out as successes without any output.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._images: OrderedDict[Any, Any] = OrderedDict()

    def get(self, row: Any) -> Any:
        """The image, or None."""
        image = self._images.get(row)
        if image is not None:
            self._images.move_to_end(row)
        return image

    def put(self, row: Any, image: Any) -> None:
        """Keep a copy: the image itself is part of its batch, which would be kept whole."""
        while self._images and self._left < image.nbytes:
            self._left += self._images.popitem(last=False)[1].nbytes
        if self._left >= image.nbytes:
            self._images[row] = image.copy()
            self._left -= image.nbytes


def _numbers(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _png(image: Any) -> bytes:
    from PIL import Image  # noqa: PLC0415 - only those who ask for PNG need it

    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "png")
    return file.getvalue()


def _refusal(problem: str) -> Any:
    error = pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)
