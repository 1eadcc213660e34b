"""The peer of benchmarks/data.py: webdataset packs the same files into tar shards, and reads batches from them.

It copies the files as they are: nothing is decoded, checked or split then; each reading decodes.
"""

import os
from collections.abc import Callable
from pathlib import Path

_BATCH = 128
_SHARD = 2_000


def packer(source: Path, target: Path) -> Callable[[], int]:
    """Write shards of all image files below `source`, in a random order, as webdataset's guide says to."""
    import random

    import webdataset  # type: ignore[import-not-found, import-untyped, unused-ignore]

    target.mkdir(exist_ok=True)

    def work() -> int:
        paths = sorted(source.rglob("*.png"))
        random.Random(0).shuffle(paths)  # noqa: S311
        with webdataset.ShardWriter(f"{target}/%05d.tar", maxcount=_SHARD, verbose=0) as sink:
            for number, path in enumerate(paths):
                label = int(path.parent.name)
                sink.write({"__key__": f"{number:07}", "png": path.read_bytes(), "cls": label})
        return len(paths)

    return work


def reader(packed: Path) -> Callable[[], int]:
    """One pass in batches of uint8, shuffled, by as many worker processes as there are cores."""
    import numpy as np
    import webdataset  # type: ignore[import-not-found, import-untyped, unused-ignore]

    shards = sorted(str(path) for path in packed.glob("*.tar"))

    def work() -> int:
        data = (
            webdataset.WebDataset(shards, shardshuffle=100, seed=0)
            .shuffle(1000)
            .decode("rgb8")
            .to_tuple("png", "cls")
            .batched(_BATCH, collation_fn=lambda rows: (np.stack([r[0] for r in rows]), [r[1] for r in rows]))
        )
        loader = webdataset.WebLoader(data, batch_size=None, num_workers=len(os.sched_getaffinity(0)))
        return sum(len(labels) for _, labels in loader)

    return work
