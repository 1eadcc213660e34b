"""How fast and in how much memory `prepare_data` works.

    python -m benchmarks.data idx        60,000 x 28 x 28 IDX files (random pixels): seconds
    python -m benchmarks.data scale      a large IDX file of 64 x 64 RGB: seconds, and the process's largest memory
    python -m benchmarks.data decode     a folder of PNG files, against Pillow alone on the same cores

Each figure is of a fresh process. CPU seconds, summed over all processes, say more than wall seconds where the
machine is shared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine, table


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["idx", "scale", "decode"])
    parser.add_argument("--images", type=int, help="default: 60,000; 1,000,000; 20,000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-process", nargs=2, metavar=("SOURCE", "SIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        _measured(Path(given.in_process[0]), int(given.in_process[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TROIKA_BENCHMARK_FOLDER")) as scratch:
        folder = Path(scratch)
        if given.what == "decode":
            count = given.images or 20_000
            _write_files(folder / "source", count)
            for _ in range(given.repeats):  # in turn, so that a change of the machine meets both
                rows.append(["Pillow alone", f"{count:,}", *_row(_pillow(folder / "source"))])
                rows.append(["prepare_data", f"{count:,}", *_row(_prepared(folder / "source"))])
        else:
            large = given.what == "scale"
            count = given.images or (1_000_000 if large else 60_000)
            _write_idx(folder / "source", count, (64, 64, 3) if large else (28, 28))
            repeats = range(1 if large else given.repeats)
            rows += [["prepare_data", f"{count:,}", *_row(_prepared(folder / "source"))] for _ in repeats]
    print(f"\n{describe_machine()}\n")
    print(table(["what", "images", "wall s", "CPU s", "largest memory MB"], rows))


def _row(found: dict[str, float]) -> list[str]:
    return [f"{found['wall']:.1f}", f"{found['cpu']:.1f}", f"{found['memory']:.0f}"]


def _prepared(source: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "idx", "--in-process", str(source), "0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(source: Path, size: int) -> None:
    """In a process of its own: prepare once and print what it took, imports left out of the seconds."""
    from components.prepare_data import prepare_data
    from components.step import read_sections, resolve_params

    changes = {"source": "auto", "path": str(source), "image_size": size}
    params = resolve_params(prepare_data, read_sections(Path("params.yaml"))["prepare_data"], changes)
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        out = Path(scratch)
        wall, cpu = time.perf_counter(), _cpu_seconds()
        prepare_data(out / "dataset", out / "data.html", out / "refused.json", params)
        figures = {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu, "memory": _largest_memory()}
    print(json.dumps(figures))


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _largest_memory() -> float:
    """MB, of this process or of the largest that it has started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1000


def _write_idx(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / f"train-images-idx{len(shape) + 1}-ubyte").open("wb") as file:
        file.write(bytes([0, 0, 8, len(shape) + 1]) + np.array([count, *shape], ">u4").tobytes())
        for start in range(0, count, 1000):
            file.write(rng.bytes(min(1000, count - start) * int(np.prod(shape))))
    labels = (np.arange(count) % 10).astype(np.uint8)
    head = bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def _write_files(folder: Path, count: int) -> None:
    """PNG files of 64 x 64 RGB, smooth as photographs are, in ten folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 10) / f"{index:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(path)


def _pillow(folder: Path) -> dict[str, float]:
    """What Pillow alone needs to decode the same files, on as many processes."""
    paths = [str(path) for path in sorted(folder.rglob("*.png"))]
    pieces = [paths[start : start + 256] for start in range(0, len(paths), 256)]
    wall, cpu = time.perf_counter(), _cpu_seconds()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        assert sum(pool.map(_decode, pieces)) == len(paths)
    return {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu, "memory": 0}


def _decode(paths: list[str]) -> int:
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return len(paths)


if __name__ == "__main__":
    main()
