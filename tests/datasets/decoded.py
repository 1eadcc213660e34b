"""One file through `decode_files`: what becomes of it, and its pixels."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from raw_images import prepare_params

from troika.datasets.decoding import Form, decode_files

WARN = dict.fromkeys(("animated", "sixteen_bit", "cmyk", "transparent"), "warn")
POLICIES = prepare_params().policies


def form(size: tuple[int, int], channels: Literal[1, 3] = 3, *, scale: bool = False, **policies: Any) -> Form:
    """What the file is to become: exactly of this size, unless it is to be scaled."""
    return Form(size, scale, channels, True, 10**7, POLICIES.model_copy(update=policies) if policies else POLICIES)


def decoded(
    folder: Path, content: bytes, size: tuple[int, int], channels: Literal[1, 3] = 3, **policies: Any
) -> tuple[list[str], NDArray[np.uint8] | None]:
    """The problems that are noted, and pixels uint8 (H, W, C); None if the file is refused."""
    (folder / "file").write_bytes(content)
    found = decode_files([str(folder / "file")], form(size, channels, **policies))
    return [note.problem for note in found.notes], found.images[0].copy() if len(found.images) else None
