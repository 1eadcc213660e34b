"""A bundle: a folder that holds one model, complete and unchangeable; its manifest's sha256 is its name.

    manifest.json                            what the files are; see `Manifest`
    model_repository/<model>/                what clients ask: config.pbtxt and 1/model.py (triton_model.py)
    graph_repository/<model>_graph/          what it asks: config.pbtxt and 1/model.onnx, (seed, label) -> image
    golden.npz, parity.json, model_card.md   inputs with expected outputs, proof of equality, description

By itself model.py runs the graph in its own process; Triton then needs the first repository and its Python
backend only. With `--model-config-name` cuda, tensorrt or onnxruntime it asks Triton's onnxruntime backend, and
Triton is given both repositories. Names, inputs, outputs and answers to clients are the same.

Does not make the graph or judge it, and does not copy bundles about (store.py does).
"""

import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import scandir
from pathlib import Path
from typing import Any, Self

from troika.errors import BundleError
from troika.folders import sha256_file, write_atomic
from troika.releases.manifest import (
    MANIFEST,
    MODEL_NAME,
    SCHEMA_VERSION,
    Manifest,
    canonical,
    code_file,
    digest_of,
    graph_file,
    graph_model,
    parse_manifest,
    read_manifest,
)
from troika.releases.triton_config import BACKENDS, graph_config, model_config


def seal(folder: Path, model: str, spec: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    """Write manifest.json over all files in `folder` and return the bundle's digest, `sha256:<hex>`.

    Args:
        folder: a folder with all the files of a bundle; an earlier manifest is replaced.
        model: lower-case letters, digits, `-` and `_`; the name Triton serves it by.
        spec: image shape, latent size, number of classes and so on; plain data that JSON can hold.
        lineage: where the model came from; plain data too, without times of day.

    Raises:
        BundleError: a file is missing, is a symbolic link or not a plain file, or `spec` is not plain data.
    """
    names = [name for name in list_files(folder) if name != MANIFEST]
    files = {
        name: {
            "sha256": sha256_file(folder / name).removeprefix("sha256:"),
            "size": (folder / name).stat().st_size,
        }
        for name in names
    }
    content = {"schema_version": SCHEMA_VERSION, "model": model, "spec": spec, "lineage": lineage, "files": files}
    try:
        text = canonical(content)
    except (TypeError, ValueError) as error:
        raise BundleError(f"spec or lineage of {model} is not plain JSON data: {error}") from None
    parse_manifest(text.encode(), str(folder))
    write_atomic(folder / MANIFEST, text)
    return digest_of(text.encode())


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked when it was opened."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes

    @classmethod
    def open(cls, folder: Path, expected_digest: str | None = None) -> Self:
        """Check the folder against its manifest, and the manifest against `expected_digest` if that is given.

        Raises:
            BundleError: names the file that is missing, changed, foreign, a link, or not a plain file, or the
                digest that the folder has instead of the expected one.
        """
        names = list_files(folder)
        if MANIFEST not in names:
            raise BundleError(f"{folder} is no complete bundle: {MANIFEST} is missing")
        manifest_bytes = read_manifest(folder)
        digest = digest_of(manifest_bytes)
        if expected_digest is not None and digest != expected_digest:
            raise BundleError(f"{folder}/{MANIFEST} has digest {digest}, expected {expected_digest}")
        manifest = parse_manifest(manifest_bytes, str(folder))
        check_names(folder, set(names), manifest)
        for name, entry in manifest.files.items():
            size = (folder / name).stat().st_size
            if size != entry.size:
                raise BundleError(f"{folder}: {name} was changed: it has {size} bytes, expected {entry.size}")
            if sha256_file(folder / name) != f"sha256:{entry.sha256}":
                raise BundleError(f"{folder}: {name} was changed: its sha256 is not {entry.sha256}")
        return cls(folder, manifest, manifest_bytes)

    @property
    def digest(self) -> str:
        """`sha256:<hex>`, the model's identity everywhere."""
        return digest_of(self.manifest_bytes)

    @property
    def model(self) -> str:
        """The name Triton serves it by."""
        return self.manifest.model

    @property
    def graph(self) -> Path:
        """The ONNX graph, see troika/models/export.py."""
        return self.folder / graph_file(self.model)

    @property
    def spec(self) -> dict[str, Any]:
        """Shapes and classes."""
        return self.manifest.spec

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the model came from."""
        return self.manifest.lineage


def list_files(folder: Path) -> list[str]:
    """Paths of all files below `folder`, with `/`, sorted.

    Raises:
        BundleError: there is no such folder, or it holds a link, an empty folder or anything but plain files.
    """
    try:
        return sorted(_walk(folder, ""))
    except OSError as error:
        raise BundleError(f"cannot read bundle {folder}: {error.strerror}: {error.filename}") from None


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    empty = True
    with scandir(folder / prefix) as entries:
        for entry in entries:
            empty = False
            name = f"{prefix}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _walk(folder, f"{name}/")
            elif stat.S_ISREG(mode):
                yield name
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
                raise BundleError(f"{folder}: {name} is {kind}; a bundle holds plain files only")
    if empty and prefix:
        raise BundleError(f"{folder}: {prefix} is an empty folder, which no bundle holds")


def check_names(folder: Path, present: set[str], manifest: Manifest) -> None:
    """Compare the files in a folder with those of its manifest.

    Raises:
        BundleError: names the first file that is missing or not listed.
    """
    expected = {MANIFEST, *manifest.files}
    if missing := sorted(expected - present):
        raise BundleError(f"{folder}: {missing[0]} is missing")
    if extra := sorted(present - expected):
        raise BundleError(f"{folder}: {extra[0]} is not listed in {MANIFEST}")


def write_triton_entry(folder: Path, model: str, onnx: Path, spec: Mapping[str, Any]) -> None:
    """Write both model repositories into a bundle: configurations, the code that clients talk to, the graph.

    Args:
        folder: the bundle's folder, not sealed yet.
        model: the name Triton serves it by.
        onnx: a graph with inputs `seed` int64 (batch, 1), `latent` float32 (batch, L) and, when conditional,
            `label` int64 (batch, 1), and output `image` uint8 (batch, H, W, C).
        spec: `image_shape` (H, W, C), `latent_size`, `conditional`, `num_classes`.

    Raises:
        BundleError: the model's name is not usable, the graph is missing, or `spec` lacks an entry.
    """
    if not MODEL_NAME.fullmatch(model):
        raise BundleError(f"model name {model!r} is not usable: lower-case letters, digits, - and _, at most 63")
    code, graph = folder / code_file(model), folder / graph_file(model)
    try:
        configurations = {
            code: {"": model_config(model, spec)}
            | {f"configs/{name}": model_config(model, spec, graph_model=graph_model(model)) for name in BACKENDS},
            graph: {
                ("" if name == "onnxruntime" else f"configs/{name}"): graph_config(model, spec, name)
                for name in BACKENDS
            },
        }
        for file, texts in configurations.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                path = file.parents[1] / f"{name or 'config'}.pbtxt"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
        shutil.copyfile(onnx, graph)
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), code)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"spec of {model} needs image_shape, latent_size, conditional and num_classes: {error!r}"
        ) from None
    except OSError as error:
        raise BundleError(
            f"cannot write the Triton entry of {model}: {error.strerror}: {error.filename}"
        ) from None
