"""Measure what the front costs: ask the same Triton by its own port and by the front's, in turns.

Processor time is that of Triton and of HAProxy together. Over HTTP with binary bodies, by wrk; seeds never repeat.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe_machine, table
from benchmarks.serving_graph import write_graph
from benchmarks.serving_load import Load, Measured, measure
from benchmarks.serving_servers import TRITON, write_bundle
from troika.serving.triton import TritonServer

GREY = (32, 32, 1)
LOADS = [Load(GREY, 1, 1), Load(GREY, 1, 16), Load(GREY, 8, 16), Load(GREY, 64, 4)]
PATH = "/v2/models/generator/infer"


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=7, help="of load, each way in each round")
    given = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed (Debian package wrk)")
    found: dict[Load, list[tuple[Measured, Measured]]] = {load: [] for load in LOADS}
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "graph.onnx"
        write_graph(graph, GREY)
        write_bundle(Path(scratch) / "bundle", graph, GREY)
        with TritonServer(Path(scratch) / "bundle", exit_seconds=0, front=True) as server:
            assert server.front is not None
            pids = server.state.pid, server.front.pid
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
                for load, pairs in found.items():
                    ports = [server.triton_ports[0], server.state.http_port]
                    # Who comes second meets a warmer machine; so each does in turn.
                    order = ports if number % 2 == 0 else ports[::-1]
                    seen = {
                        port: measure(TRITON, pids, f"127.0.0.1:{port}", PATH, load, given.seconds, scratch)
                        for port in order
                    }
                    pairs.append((seen[ports[0]], seen[ports[1]]))
    print(f"{describe_machine()}; median of {given.rounds} rounds\n")
    print(table(["load", "bare, CPU µs an image", "front adds", "of it", "p50 ms", "with front", "failed"],
                [row(load, pairs) for load, pairs in found.items()]))  # fmt: skip


def row(load: Load, pairs: list[tuple[Measured, Measured]]) -> list[str]:
    """One line of the table; the difference is that within a round."""
    bare = statistics.median(one.microseconds for one, _ in pairs)
    adds = statistics.median(other.microseconds - one.microseconds for one, other in pairs)
    p50, fronted = (statistics.median(pair[side].p50 for pair in pairs) for side in (0, 1))
    failed = sum(one.failed + other.failed for one, other in pairs)
    return [
        str(load),
        f"{bare:,.0f}",
        f"{adds:+,.0f}",
        f"{adds / bare:+.1%}",
        f"{p50:.2f}",
        f"{fronted:.2f}",
        str(failed),
    ]


if __name__ == "__main__":
    main()
