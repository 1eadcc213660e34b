"""How fast and in how much memory `prepare_data` works, and how fast training gets its images.

    python -m benchmarks.data idx         60,000 x 28 x 28 IDX files: seconds
    python -m benchmarks.data decode      a folder of files, against Pillow alone on the same cores; --files jpg
    python -m benchmarks.data short-ways  the step with and without a decoder beside Pillow; --files jpg
    python -m benchmarks.data scale       a folder of 64 x 64 RGB JPEG files: seconds, memory; --idx: IDX files
    python -m benchmarks.data webdataset  the same folder packed and read by webdataset, if installed
    python -m benchmarks.data loader      images that are read in a second against images that are trained on

Each figure is of a fresh process; what is compared runs in turn. CPU seconds, summed over all processes, say more
than wall seconds where the machine is shared. Memory is the highest sum of proportional set sizes (PSS) of all
processes, looked at in one more run of each, as looking takes time; `scale` has one run for both.
TROIKA_BENCHMARK_FOLDER says where there is room: 1,000,000 images need 35 GB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data_loading, data_short_ways, data_webdataset
from benchmarks.data_sources import write_files, write_idx
from benchmarks.machine import describe_machine, table, tree_bytes, tree_cpu_seconds

_COUNTS = {
    "idx": 60_000,
    "decode": 20_000,
    "short-ways": 20_000,
    "scale": 1_000_000,
    "webdataset": 20_000,
    "loader": 20_000,
}
Figures = dict[str, float]


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(_COUNTS))
    parser.add_argument("--images", type=int, help=", ".join(f"{k}: {v:,}" for k, v in _COUNTS.items()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idx", action="store_true", help="scale: one pair of IDX files instead of a folder")
    parser.add_argument(
        "--files", choices=["png", "jpg", "webp"], default="png", help="decode, short-ways: their format"
    )
    parser.add_argument("--in-process", metavar="WHAT", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        print(json.dumps(_IN_PROCESS[given.in_process](given.source)))
        return
    count = given.images or _COUNTS[given.what]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TROIKA_BENCHMARK_FOLDER")) as scratch:
        source = Path(scratch) / "source"
        if given.what == "idx":
            write_idx(source, count, (28, 28))
            rows = _in_turn(["prepare_data"], source, given.rounds)
        elif given.what == "scale":
            if given.idx:
                write_idx(source, count, (64, 64, 3))
            else:
                write_files(source, count, "jpg")
            rows = [_row("prepare_data", "1", _fresh("prepare_data", source, look_at_memory=True))]
        else:
            write_files(source, count, given.files if given.what in ("decode", "short-ways") else "png")
            what = {
                "decode": ["Pillow alone", "decode and write", "prepare_data"],
                "short-ways": [f"{given.files} by {name}" for name in data_short_ways.contenders(given.files)],
                "webdataset": ["webdataset", "prepare_data", "webdataset reads", "prepare_data reads"],
                "loader": ["prepare_data reads", "r3gan trains"],
            }
            rows = _in_turn(what[given.what], source, given.rounds)
    print(f"\n{describe_machine()}; {count:,} images\n")
    print(table(["what", "round", "wall s", "CPU s", "memory MB", "images/s of wall", "images/s of CPU"], rows))


def _in_turn(names: list[str], source: Path, rounds: int) -> list[list[str]]:
    found: dict[str, list[Figures]] = {name: [] for name in names}
    rows = []
    for number in range(1, rounds + 1):
        for name in names:
            print(f"round {number}: {name}", file=sys.stderr)
            found[name].append(_fresh(name, source))
            rows.append(_row(name, str(number), found[name][-1]))
    for name in names:
        print(f"memory: {name}", file=sys.stderr)
        rows.append(_row(name, "for memory", _fresh(name, source, look_at_memory=True)))
    if rounds > 1:
        for name, each in found.items():
            rows.append(_row(name, "median", {key: statistics.median(f[key] for f in each) for key in each[0]}))
    for name in names[1:]:
        for key in ("wall", "cpu"):
            speeds = [
                (b["images"] / b[key]) / (a["images"] / a[key])
                for a, b in zip(found[names[0]], found[name], strict=True)
            ]
            print(
                f"{name}: {statistics.median(speeds):.2f} times the images/s of {names[0]} "
                f"({min(speeds):.2f} to {max(speeds):.2f}), by {key} seconds"
            )
    return rows


def _row(name: str, number: str, found: Figures) -> list[str]:
    speeds = [f"{found['images'] / found[key]:,.0f}" for key in ("wall", "cpu")]
    memory = f"{found['memory']:.0f}" if "memory" in found else ""
    return [name, number, f"{found['wall']:.1f}", f"{found['cpu']:.1f}", memory, *speeds]


def _fresh(name: str, source: Path, *, look_at_memory: bool = False) -> Figures:
    """In a process of its own; on demand, its memory and that of its children is looked at all the while."""
    command = [sys.executable, "-m", "benchmarks.data", "idx", "--in-process", name, "--source", str(source)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0

    def look() -> None:
        nonlocal peak
        peak = max(peak, tree_bytes(process.pid))

    with _watching(look) if look_at_memory else nullcontext():
        text, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{name} failed")
    found: Figures = json.loads(text.splitlines()[-1])
    return {**found, "memory": peak / 1e6} if look_at_memory else found


def _timed(work: Callable[[], int]) -> Figures:
    """Imports are done; `work` says how many images it has had in its hands."""
    seen: dict[int, float] = {}
    before = sum(tree_cpu_seconds(os.getpid()).values())
    wall = time.perf_counter()
    with _watching(lambda: seen.update(tree_cpu_seconds(os.getpid()))):
        images = work()
    wall = time.perf_counter() - wall
    seen.update(tree_cpu_seconds(os.getpid()))
    return {"wall": wall, "cpu": sum(seen.values()) - before, "images": images}


@contextmanager
def _watching(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every fifth of a second."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _params(source: Path, **changes: Any) -> Any:
    """Those of params.yaml, for this source."""
    from components.prepare_data import prepare_data
    from components.step import read_sections, resolve_params

    section = read_sections(Path("params.yaml"))["prepare_data"]
    return resolve_params(prepare_data, section, {"source": "auto", "path": str(source), **changes})


def _prepare(source: Path) -> Figures:
    from components.prepare_data import prepare_data

    params = _params(source)
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        out = Path(scratch)

        def work() -> int:
            prepare_data(out / "dataset", out / "data.html", out / "refused.json", params)
            described = json.loads((out / "dataset" / "dataset.json").read_text(encoding="utf-8"))
            return sum(described["counts"].values())

        found = _timed(work)
        kept = source.parent / "dataset"
        if not kept.exists() and found["images"] <= 100_000:
            (out / "dataset").rename(kept)  # for what reads it
        return found


def _prepare_by(name: str, suffix: str, source: Path) -> Figures:
    with data_short_ways.decoding_by(name, suffix):
        return _prepare(source)


def _pillow(source: Path) -> Figures:
    """What Pillow alone needs to decode the same files, on as many processes; nothing is kept."""
    paths = [str(path) for path in sorted(source.rglob("*.*"))]
    pieces = [paths[start : start + 256] for start in range(0, len(paths), 256)]

    def work() -> int:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return sum(pool.map(_decode, pieces))

    return _timed(work)


def _decode_and_write(source: Path) -> Figures:
    """What `prepare_data` does before its extras: no search for near copies, no DVC hash, no report."""
    from troika.datasets.preparation import prepare
    from troika.datasets.problems import Findings
    from troika.datasets.sources import open_source

    params = _params(source, near_duplicate_distance=0)
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:

        def work() -> int:
            findings = Findings(params.policies)
            prepared = prepare(Path(scratch), open_source(params), params, findings, Path("the findings"))
            return sum(prepared.info.counts.values())

        return _timed(work)


def _decode(paths: list[str]) -> int:
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return len(paths)


def _read(source: Path) -> Figures:
    dataset = source.parent / "dataset"
    if not dataset.exists():
        _prepare(source)
    return _timed(data_loading.reader(dataset))


def _train(source: Path) -> Figures:
    return _timed(data_loading.trainer(source.parent / "dataset"))


_IN_PROCESS: dict[str, Callable[[Path], Figures]] = {
    "prepare_data": _prepare,
    "Pillow alone": _pillow,
    "decode and write": _decode_and_write,
    **{
        f"{suffix} by {name}": partial(_prepare_by, name, suffix)
        for suffix, names in data_short_ways.SHORT_WAYS.items()
        for name in names
    },
    "prepare_data reads": _read,
    "r3gan trains": _train,
    "webdataset": lambda source: _timed(data_webdataset.packer(source, source.parent / "packed")),
    "webdataset reads": lambda source: _timed(data_webdataset.reader(source.parent / "packed")),
}


if __name__ == "__main__":
    main()
