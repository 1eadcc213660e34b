"""How fast images are served: Troika's Triton, its strongest peers, and ONNX Runtime alone as the limit.

All run the same ONNX file and get the same kind of load, from wrk over HTTP with binary bodies, with seeds that
never repeat, so that no cache helps. Each round measures every server once, one after the other, so that a change
of the machine's speed meets all. First comes processor time per image of the whole server: on a machine that has
other work, it says more than images per second. Needs wrk (Debian); makes virtual environments for the peers.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe_machine, table, tree_bytes
from benchmarks.serving_graph import Shape, in_process, write_graph
from benchmarks.serving_load import Load, Measured, measure
from benchmarks.serving_servers import PEERS, TRITON, check, serve

GREY, RGB = (32, 32, 1), (64, 64, 3)
TARGETS = [Load(GREY, 64, 4), Load(GREY, 8, 16), Load(GREY, 1, 16), Load(GREY, 1, 1), Load(RGB, 8, 4)]
ALL = [Load(shape, batch, clients) for shape in (GREY, RGB) for batch in (1, 8, 64) for clients in (1, 4, 16)]
SHARE = {Load(GREY, 64, 4): 0.90, Load(GREY, 8, 16): 0.87, Load(GREY, 1, 16): 0.55, Load(RGB, 8, 4): 0.95}
OF_BEST_PEER = {Load(GREY, 1, 16): 0.80, Load(GREY, 8, 16): 1.0, Load(GREY, 64, 4): 1.0}


def main() -> None:
    """Run all rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=7, help="of load, for each server in each round")
    parser.add_argument("--all", action="store_true", help="batch 1, 8, 64 with 1, 4, 16 clients, both shapes")
    parser.add_argument(
        "--peers", type=Path, default=Path(".troika/benchmark-peers"), help="for their environments"
    )
    given = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed (Debian package wrk)")
    loads = ALL if given.all else TARGETS
    found: dict[tuple[Load, str], list[Measured]] = {}
    starts: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    limits: dict[Shape, dict[int, list[float]]] = {}
    hits: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in dict.fromkeys(load.shape for load in loads):
            graph = Path(scratch) / f"{shape[0]}.onnx"
            write_graph(graph, shape)
            limits[shape] = {1: [], 8: [], 64: []}
            for number in range(given.rounds):
                print(f"{shape[0]}x{shape[1]}: round {number + 1} of {given.rounds}", file=sys.stderr)
                for batch, values in limits[shape].items():
                    values.append(in_process(graph, batch))
                for name in (TRITON, *PEERS):
                    started = time.monotonic()
                    with serve(name, graph, shape, given.peers) as (pid, address, path):
                        starts.setdefault(name, []).append(time.monotonic() - started)
                        check(name, address, path, graph, shape)
                        for load in (one for one in loads if one.shape == shape):
                            measured = measure(name, (pid,), address, path, load, given.seconds, scratch)
                            found.setdefault((load, name), []).append(measured)
                        memory.setdefault(name, []).append(tree_bytes(pid) / 2**20)
                        if name == TRITON and shape == GREY:
                            again = Load(GREY, 1, 1)
                            hits.append(measure(name, (pid,), address, path, again, 2, scratch, repeat=True).p50)
    show(loads, found, starts, memory, limits, hits)


def show(
    loads: list[Load],
    found: dict[tuple[Load, str], list[Measured]],
    starts: dict[str, list[float]],
    memory: dict[str, list[float]],
    limits: dict[Shape, dict[int, list[float]]],
    hits: list[float],
) -> None:
    """Print everything."""
    rounds = len(next(iter(found.values())))
    print(f"{describe_machine()}; median of {rounds} rounds\n")
    limit = {shape: {b: statistics.median(v) for b, v in of.items()} for shape, of in limits.items()}
    for shape, of in limit.items():
        figures = ", ".join(f"{value:.0f} in batches of {batch}" for batch, value in of.items())
        print(f"In process, {shape[0]}x{shape[1]}x{shape[2]}, µs an image: {figures}\n")

    def median(load: Load, name: str, what: str) -> float:
        return float(statistics.median(getattr(one, what) for one in found[load, name]))

    rows = [
        [
            str(load), name, f"{median(load, name, 'microseconds'):,.0f}",
            f"{limit[load.shape][64] / median(load, name, 'microseconds'):.2f}",
            f"{median(load, name, 'images'):,.0f}",
            *(f"{median(load, name, p):.2f}" for p in ("p50", "p95", "p99")),
            str(sum(one.failed for one in found[load, name])),
        ]
        for load in loads
        for name in (TRITON, *PEERS)
    ]  # fmt: skip
    head = [
        "load",
        "server",
        "CPU µs an image",
        "share of limit",
        "images/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "failed",
    ]
    print(table(head, rows) + "\n")
    rows = [
        [name, f"{statistics.median(starts[name]):.1f} s", f"{statistics.median(memory[name]):.0f} MiB"]
        for name in (TRITON, *PEERS)
    ]
    print(table(["server", "start to first answer", "memory (PSS)"], rows) + "\n")

    def ratio(load: Load, what: str) -> float:
        """Triton to the best peer, round by round."""
        values = []
        for number, ours in enumerate(getattr(one, what) for one in found[load, TRITON]):
            theirs = [getattr(found[load, name][number], what) for name in PEERS]
            values.append(ours / (max(theirs) if what == "images" else min(theirs)))
        return float(statistics.median(values))

    rows = []
    for load in loads:
        share = limit[load.shape][64] / median(load, TRITON, "microseconds")
        if load in SHARE:
            rows.append([str(load), "share of the in-process limit", f">= {SHARE[load]}", f"{share:.2f}"])
        if load in OF_BEST_PEER:
            what = f"<= {OF_BEST_PEER[load]}"
            rows.append([str(load), "CPU an image, of the best peer", what, f"{ratio(load, 'microseconds'):.2f}"])
        if load == Load(GREY, 1, 16):
            rows.append([str(load), "images/s, of the best peer", ">= 1.4", f"{ratio(load, 'images'):.2f}"])
        if load == Load(GREY, 1, 1):
            direct = median(load, TRITON, "p50") * 1000 / limit[GREY][1]
            rows.append([str(load), "p50, of one run in process", "<= 2.2", f"{direct:.2f}"])
            rows.append([str(load), "p50, of the best peer", "<= 1", f"{ratio(load, 'p50'):.2f}"])
    rows.append(["the same image again", "p50", "<= 0.4 ms", f"{statistics.median(hits):.2f} ms"])
    rows.append(["Triton", "start to ready", "<= 1.5 s", f"{statistics.median(starts[TRITON]):.1f} s"])
    rows.append(["Triton", "memory (PSS)", "<= 160 MiB", f"{statistics.median(memory[TRITON]):.0f} MiB"])
    print(table(["load", "what", "target", "measured"], rows))


if __name__ == "__main__":
    main()
