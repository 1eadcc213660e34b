"""A bundle's manifest: its type, its one canonical text, and the rules that its list of files obeys.

Does not look at the files themselves; bundle.py does.
"""

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from troika.errors import BundleError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
MAX_MANIFEST_BYTES = 16 * 2**20
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def code_file(model: str) -> str:
    """Path in a bundle of the code that Triton's Python backend runs."""
    return f"model_repository/{model}/1/model.py"


def graph_file(model: str) -> str:
    """Path in a bundle of the ONNX graph."""
    return f"graph_repository/{graph_model(model)}/1/model.onnx"


def graph_model(model: str) -> str:
    """The name of the graph, where Triton serves it as a model of its own."""
    return f"{model}_graph"


class FileEntry(BaseModel):
    """What one file must be."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """Content of manifest.json. Holds no time of day: equal models have equal digests."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1, 2]
    """2: no output is text; 1: `model_digest` is, and one request for its classification ends Triton 2.51."""
    model: Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME.pattern}$")]
    spec: dict[str, Any]
    """Image shape, latent size, number of classes and so on."""
    lineage: dict[str, Any]
    """Where it came from: dataset hash, code commit, parameters."""
    files: dict[str, FileEntry]
    """Every file but the manifest, by its path with `/`."""


def digest_of(manifest_bytes: bytes) -> str:
    """`sha256:<hex>` of a manifest's bytes: the digest of its bundle."""
    return f"sha256:{hashlib.sha256(manifest_bytes).hexdigest()}"


def read_manifest(folder: Path) -> bytes:
    """The manifest's bytes; never follows a link and never reads without limit.

    Raises:
        BundleError: it is too large or cannot be read.
    """
    try:
        with os.fdopen(os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"cannot read {folder}/{MANIFEST}: {error.strerror}") from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{folder}/{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return content


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Typed manifest; `where` is how messages name the bundle.

    Raises:
        BundleError: not canonical JSON, a key is unknown, missing or of the wrong type, a path could leave
            the folder, or a file that every bundle has is not listed.
    """
    try:
        raw = json.loads(content)
        text = canonical(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {MANIFEST} is not JSON: {error}") from None
    if text.encode() != content:
        # Also refuses a key that stands there twice, which parsers read differently.
        raise BundleError(
            f"{where}: {MANIFEST} is not canonical JSON (sorted keys, no spaces, newline at the end)"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise BundleError(f"{where}: {MANIFEST} is not valid: {problems}") from None

    for name in manifest.files:
        path = PurePosixPath(name)
        if str(path) != name or path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise BundleError(f"{where}: {MANIFEST} lists {name!r}, which is not a plain relative path")
    folders = [name.rpartition("/1/")[0] for name in (code_file(manifest.model), graph_file(manifest.model))]
    required = [f"{folder}/config.pbtxt" for folder in folders]
    required += [code_file(manifest.model), graph_file(manifest.model)]
    for name in (*required, "golden.npz", "parity.json", "model_card.md"):
        if name not in manifest.files:
            raise BundleError(f"{where}: {name} is missing; every bundle of {manifest.model} holds it")
    for name in manifest.files:
        # Triton would load a second model or a second version that nobody has judged.
        foreign = name.partition("/")[0] in {"model_repository", "graph_repository"} and not any(
            re.fullmatch(rf"{re.escape(folder)}/(config\.pbtxt|configs/[^/]+\.pbtxt|1/.+)", name)
            for folder in folders
        )
        if foreign or name == MANIFEST:
            raise BundleError(f"{where}: {name} does not belong into a bundle of {manifest.model}")
    return manifest


def canonical(content: Any) -> str:
    """The only JSON text for `content`."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False) + "\n"
