"""A bundle: a folder that holds one model, complete and unchangeable; its manifest's sha256 is its name.

    manifest.json                            what the files are; see `Manifest`
    model_repository/<model>/config.pbtxt    what Triton reads
    model_repository/<model>/1/model.onnx    (seed, label) -> image
    model_repository/<model>/1/model.py      what Triton runs; a copy of triton_model.py
    golden.npz, parity.json, model_card.md   inputs with expected outputs, proof of equality, description

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
    Manifest,
    canonical,
    digest_of,
    parse_manifest,
    read_manifest,
)

# One batch of a large image already fills a processor's cache: 64 images of 32x32x3, 16 of 64x64x3.
VALUES_PER_BATCH = 64 * 32 * 32 * 3
MAX_BATCH = 64


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
    content = {"schema_version": 1, "model": model, "spec": spec, "lineage": lineage, "files": files}
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
    """Write `model_repository/<model>/` into a bundle: config.pbtxt, the graph and the code that runs it.

    Args:
        folder: the bundle's folder, not sealed yet.
        model: the name Triton serves it by.
        onnx: a graph with inputs `seed` int64 (batch, 1) and, when conditional, `label` int64 (batch, 1), and
            output `image` uint8 (batch, H, W, C).
        spec: `image_shape` (H, W, C), `conditional`, `num_classes`.

    Raises:
        BundleError: the model's name is not usable, the graph is missing, or `spec` lacks an entry.
    """
    if not MODEL_NAME.fullmatch(model):
        raise BundleError(f"model name {model!r} is not usable: lower-case letters, digits, - and _, at most 63")
    version = folder / "model_repository" / model / "1"
    try:
        config = _config_pbtxt(model, spec)
        version.mkdir(parents=True, exist_ok=True)
        (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
        shutil.copyfile(onnx, version / "model.onnx")
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"spec of {model} needs image_shape, conditional and num_classes: {error!r}") from None
    except OSError as error:
        raise BundleError(
            f"cannot write the Triton entry of {model}: {error.strerror}: {error.filename}"
        ) from None


def _config_pbtxt(model: str, spec: Mapping[str, Any]) -> str:
    height, width, channels = (int(size) for size in spec["image_shape"])
    fitting = max(1, VALUES_PER_BATCH // (height * width * channels))
    batch = min(MAX_BATCH, 1 << (fitting.bit_length() - 1))
    names = ["seed", "label"] if spec["conditional"] else ["seed"]
    inputs = ",\n".join(f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ 1 ] }}' for name in names)
    warm = "\n".join(
        f'  inputs {{ key: "{name}" value {{ data_type: TYPE_INT64 dims: [ 1 ] zero_data: true }} }}'
        for name in names
    )
    return f"""\
name: "{model}"
backend: "python"
max_batch_size: {batch}
input [
{inputs}
]
output [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, {channels} ] }},
  {{ name: "model_digest" data_type: TYPE_STRING dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 2 }} ]
# No delay: under load, requests that wait for a free instance form batches by themselves.
dynamic_batching {{
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    max_queue_size: 1024
    default_timeout_microseconds: 10000000
    timeout_action: REJECT
    allow_timeout_override: true
  }}
}}
# No response cache: it would keep a refusal and give it out as a success without any output.
model_warmup [ {{
  name: "largest_batch"
  batch_size: {batch}
{warm}
}} ]
# What a client needs to know and Triton has no field for.
parameters {{ key: "conditional" value {{ string_value: "{str(bool(spec["conditional"])).lower()}" }} }}
parameters {{ key: "num_classes" value {{ string_value: "{int(spec["num_classes"])}" }} }}
"""
