"""Synthetic sources for benchmarks/data.py: IDX files of noise, folders of smooth pictures, all different."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

CLASSES = 10
_PIECE = 1000


def write_idx(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """A pair of IDX files, not packed, of random bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / f"train-images-idx{len(shape) + 1}-ubyte").open("wb") as file:
        file.write(bytes([0, 0, 8, len(shape) + 1]) + np.array([count, *shape], ">u4").tobytes())
        for start in range(0, count, _PIECE):
            file.write(rng.bytes(min(_PIECE, count - start) * int(np.prod(shape))))
    labels = (np.arange(count) % CLASSES).astype(np.uint8)
    head = bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def write_files(folder: Path, count: int, suffix: str) -> None:
    """Image files of 64 x 64 RGB, smooth as photographs are, in a folder for each class, by all cores."""
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(partial(_write_piece, folder, count, suffix), range(0, count, _PIECE)))


def _write_piece(folder: Path, count: int, suffix: str, start: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(start)
    for index in range(start, min(start + _PIECE, count)):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = folder / str(index % CLASSES) / f"{index:07}.{suffix}"
        small.resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=90)  # which PNG ignores
