"""Count the pods that a run on Kubeflow starts and weigh their images, with one image for all steps and with two.

Reads the compiled package, as Kubeflow does: a driver for each task, for each part of the graph that has a
condition, and for the whole; and a pod that does the work for each task that is not in the cache. Images are
weighed by this machine's Docker engine, layers that two have in common once; on the wire layers are gzipped, as a
registry has them.

    python -m benchmarks.pods --train-image troika-train:TAG --light-image troika-light:TAG
"""

import argparse
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.machine import describe_machine, table
from components.step import read_sections
from pipelines.cluster import read_cluster
from pipelines.compile import compile_pipeline


class Pods(NamedTuple):
    """Pods and images that one run of a package starts."""

    drivers: int
    """Small pods of Kubeflow's own, one before each task and each graph."""
    images: Counter[str]
    """Image -> pods that do a step's work."""


def count_pods(package: Mapping[str, Any]) -> Pods:
    """Return the pods of a run in which every step runs, once."""
    images: Counter[str] = Counter()

    def walk(dag: Mapping[str, Any]) -> Iterator[str]:
        yield "the graph's"
        for name, task in dag["tasks"].items():
            component = package["components"][task["componentRef"]["name"]]
            if "dag" in component:
                yield from walk(component["dag"])
            else:
                yield name
                executor = package["deploymentSpec"]["executors"][component["executorLabel"]]
                images[executor["container"]["image"]] += 1

    return Pods(len(list(walk(package["root"]["dag"]))), images)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-image", required=True)
    parser.add_argument("--light-image", required=True)
    given = parser.parse_args()
    train, light = given.train_image, given.light_image
    one, two = (_of_package(train, second) for second in (None, light))
    rows = [
        ["drivers, Kubeflow's own image", str(one.drivers), str(two.drivers)],
        ["pods of the train image", str(one.images[train]), str(two.images[train])],
        ["pods of the light image", str(one.images[light]), str(two.images[light])],
    ]
    for what, before, after in (
        ("a node that only finds, publishes and releases", [train], [light]),
        ("a node that runs everything", [train], [train, light]),
    ):
        weights = [_weigh(*images) for images in (before, after)]
        rows += [
            [f"{what}: on its disk", *(f"{disk / 1e9:.2f} GB" for disk, _ in weights)],
            [f"{what}: on the wire", *(f"{wire / 1e9:.2f} GB" for _, wire in weights)],
        ]
    print(f"{describe_machine()}\n\n{table(['', 'one image', 'two images'], rows)}")


def _of_package(train: str, light: str | None) -> Pods:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        compile_pipeline(
            path, train, read_sections(Path("params.yaml")), read_cluster(Path("pipelines/cluster.yaml")), light
        )
        return count_pods(next(yaml.safe_load_all(path.read_text(encoding="utf-8"))))


@cache
def _weigh(*images: str) -> tuple[int, int]:
    """Return the bytes of all layers, as they are and after gzip."""
    compressor, plain, zipped = zlib.compressobj(6, zlib.DEFLATED, 31), 0, 0
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saving:
        assert saving.stdout
        while chunk := saving.stdout.read(1 << 20):
            plain += len(chunk)
            zipped += len(compressor.compress(chunk))
    assert saving.returncode == 0, f"docker save {' '.join(images)} failed"
    return plain, zipped + len(compressor.flush())


if __name__ == "__main__":
    main()
