"""How fast images are served: Troika's Triton, its strongest peers, and ONNX Runtime alone as the limit.

All run the same ONNX file and get the same kind of load, from wrk over HTTP with binary bodies, with seeds that
never repeat, so that no cache helps. Each round measures every server once, one after the other, so that a change
of the machine's speed meets all. First comes processor time per image of the whole server: on a machine that has
other work, it says more than images per second. Needs wrk (Debian); makes virtual environments for the peers.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.machine import describe_machine, table
from troika.models.contract import ModelSpec
from troika.models.export import build_onnx
from troika.onnx_session import open_session, run_generator
from troika.releases.bundle import seal, write_triton_entry
from troika.serving.triton import TritonServer
from troika.serving.triton_process import choose_ports
from troika.torch_onnx import to_onnx

LATENT, CLASSES = 64, 10
PEERS = {
    "FastAPI, micro-batched": ("fastapi", ["fastapi==0.165.0", "uvicorn[standard]==0.54.0"]),
    "LitServe": ("litserve", ["litserve==0.2.19"]),
    "BentoML": ("bentoml", ["bentoml==1.4.39"]),
    "KServe": ("kserve", ["kserve==0.21.0"]),
}
TRITON = "Triton (Troika)"
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Load:
    """What is asked of every server."""

    shape: Shape
    batch: int
    clients: int

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f"{height}x{width}x{channels}, batch {self.batch}, {self.clients} clients"


GREY, RGB = (32, 32, 1), (64, 64, 3)
TARGETS = [Load(GREY, 64, 4), Load(GREY, 8, 16), Load(GREY, 1, 16), Load(GREY, 1, 1), Load(RGB, 8, 4)]
ALL = [Load(shape, batch, clients) for shape in (GREY, RGB) for batch in (1, 8, 64) for clients in (1, 4, 16)]
SHARE = {Load(GREY, 64, 4): 0.90, Load(GREY, 8, 16): 0.87, Load(GREY, 1, 16): 0.55, Load(RGB, 8, 4): 0.95}
OF_BEST_PEER = {Load(GREY, 1, 16): 0.80, Load(GREY, 8, 16): 1.0, Load(GREY, 64, 4): 1.0}


@dataclass(frozen=True)
class Measured:
    """One server under one load for some seconds."""

    microseconds: float
    """Processor time of all its processes, an image."""
    images: float
    """A second."""
    p50: float
    p95: float
    p99: float
    """Milliseconds."""
    failed: int


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
                            measured = measure(name, pid, address, path, load, given.seconds, scratch)
                            found.setdefault((load, name), []).append(measured)
                        memory.setdefault(name, []).append(proportional_bytes(pid) / 2**20)
                        if name == TRITON and shape == GREY:
                            again = Load(GREY, 1, 1)
                            hits.append(measure(name, pid, address, path, again, 2, scratch, repeat=True).p50)
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


class _Generator(nn.Module):
    """A conditional DCGAN generator: about 1.2 M parameters for 32x32x1, 3.9 M for 64x64x3."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        height, _, channels = shape
        widths = {32: [256, 128, 64], 64: [384, 256, 128, 64]}[height]
        self.width = widths[0]
        self.start = nn.Linear(LATENT + CLASSES, self.width * 16)
        self.known: Tensor
        self.register_buffer("known", torch.eye(CLASSES))
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """(batch, H, W, C) in -1..1."""
        start = self.start(torch.cat([latent, self.known[label]], dim=1)).unflatten(1, (self.width, 4, 4))
        images: Tensor = self.layers(start).permute(0, 2, 3, 1)
        return images


def write_graph(path: Path, shape: Shape) -> None:
    """A generator with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    core = path.with_suffix(".core")
    examples = (torch.zeros(2, LATENT), torch.zeros(2, dtype=torch.int64))
    core.write_bytes(to_onnx(_Generator(shape).eval(), examples, ["latent", "label"], ["image_float"]))
    spec = ModelSpec(
        family="gan", framework="pytorch", preset="dcgan", image_shape=shape, latent_size=LATENT,
        num_classes=CLASSES, conditional=True,
    )  # fmt: skip
    build_onnx(core, spec, path)


def in_process(graph: Path, batch: int) -> float:
    """Microseconds of processor time an image, on one thread."""
    session = open_session(graph)
    seeds = np.arange(batch, dtype=np.int64)
    run_generator(session, seeds, seeds % CLASSES)
    count, started, end = 0, time.process_time(), time.monotonic() + 1.5
    while time.monotonic() < end:
        run_generator(session, seeds + count, seeds % CLASSES)
        count += batch
    return (time.process_time() - started) / count * 1e6


@contextmanager
def serve(name: str, graph: Path, shape: Shape, environments: Path) -> Iterator[tuple[int, str, str]]:
    """Start a server; gives its process, address and path once it answers."""
    with ExitStack() as cleanup:
        if name == TRITON:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory())) / "bundle"
            spec = {"image_shape": list(shape), "latent_size": LATENT, "num_classes": CLASSES, "conditional": True}
            write_triton_entry(folder, "generator", graph, spec)
            for file in ("golden.npz", "parity.json", "model_card.md"):
                (folder / file).write_text("-")
            seal(folder, "generator", spec, {})
            server = cleanup.enter_context(TritonServer(folder, exit_seconds=0))
            yield server.state.pid, f"127.0.0.1:{server.state.http_port}", "/v2/models/generator/infer"
            return
        short, _ = PEERS[name]
        port, *_ = choose_ports((0, 0, 0))
        python = environment_of(name, environments)
        script = Path(__file__).with_name("serving_peers") / f"{short}_server.py"
        command = [str(python), script.name, str(graph), str(port)]
        if short == "bentoml":
            command = [
                str(python),
                "-m",
                "bentoml",
                "serve",
                f"{script.stem}:Images",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ]
        variables = {
            "MODEL": str(graph),
            "BENTOML_DO_NOT_TRACK": "1",
            "LIT_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            command, cwd=script.parent, env={**os.environ, **variables, "PYTHONPATH": str(script.parent)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

        def stop() -> None:
            family = [process_of(process.pid), *process_of(process.pid).children(recursive=True)]
            for one in family:
                one.kill()
            process.wait()

        cleanup.callback(stop)
        path = "/v2/models/generator/infer" if short == "kserve" else "/generate"
        deadline = time.monotonic() + 90
        while True:
            try:
                ask(name, f"127.0.0.1:{port}", path, [(0, 0)])
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} does not start") from None
                time.sleep(0.05)
        yield process.pid, f"127.0.0.1:{port}", path


def process_of(pid: int) -> Any:
    """Psutil's view of it."""
    return psutil.Process(pid)


def environment_of(name: str, environments: Path) -> Path:
    """Python of a virtual environment with the peer in it, made once."""
    short, packages = PEERS[name]
    folder = environments.resolve() / short
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        uv = [sys.executable, "-m", "uv"]
        print(f"installing {name}", file=sys.stderr)
        subprocess.run(
            [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)], check=True
        )
        install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages]
        subprocess.run([*install, "onnxruntime==1.32.0", "numpy<2"], check=True)
        (folder / "ready").touch()
    return python


def body_and_headers(name: str, count: int) -> tuple[bytes, dict[str, str]]:
    """What comes before the rows, and the headers; Triton and KServe want columns with a JSON head."""
    if name not in {TRITON, "KServe"}:
        return b"", {"Content-Type": "application/octet-stream"}
    size = 8 * count
    inputs = ",".join(
        f'{{"name":"{column}","datatype":"INT64","shape":[{count},1],"parameters":{{"binary_data_size":{size}}}}}'
        for column in ("seed", "label")
    )
    outputs = '[{"name":"image","parameters":{"binary_data":true}}]'
    head = f'{{"inputs":[{inputs}],"outputs":{outputs}}}'.encode()
    return head, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def ask(name: str, address: str, path: str, rows: list[tuple[int, int]]) -> bytes:
    """The bytes of the images, by one request."""
    head, headers = body_and_headers(name, len(rows))
    array = np.array(rows, dtype=np.int64)
    body = head + (array.T.tobytes() if head else array.tobytes())
    request = urllib.request.Request(f"http://{address}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        start = answer.headers.get("Inference-Header-Content-Length")
        return content[int(start) :] if start else content


def check(name: str, address: str, path: str, graph: Path, shape: Shape) -> None:
    """A server that answers other images is not compared."""
    rows = [(seed * 7919, seed % CLASSES) for seed in range(12)]
    columns: NDArray[np.int64] = np.array(rows, dtype=np.int64)
    expected = run_generator(open_session(graph), columns[:, 0], columns[:, 1])
    found = np.frombuffer(ask(name, address, path, rows), dtype=np.uint8).reshape(-1, *shape)
    largest = int(np.abs(expected.astype(int) - found).max())
    if largest > 1:
        raise RuntimeError(f"{name} answers other images than the graph: difference {largest}")


LUA = """
local head, count, columns, again = {head}, {count}, {columns}, {again}
local number = 0
local function int64(value)
  local b0, b1 = value % 256, math.floor(value / 256) % 256
  local b2, b3 = math.floor(value / 65536) % 256, math.floor(value / 16777216) % 256
  return string.char(b0, b1, b2, b3, 0, 0, 0, 0)
end
function request()
  local seeds, labels, rows = {{}}, {{}}, {{}}
  for i = 1, count do
    if not again then number = number + 1 end
    local seed, label = int64({start} + number), int64(number % 10)
    if columns then seeds[i] = seed; labels[i] = label else rows[i] = seed .. label end
  end
  local body = columns and head .. table.concat(seeds) .. table.concat(labels) or table.concat(rows)
  return wrk.format("POST", nil, nil, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_START = 0


def measure(
    name: str, pid: int, address: str, path: str, load: Load, seconds: float, scratch: str, *, repeat: bool = False
) -> Measured:
    """Load for some seconds, after half a second of warming up."""
    head, headers = body_and_headers(name, load.batch)
    script = Path(scratch) / "load.lua"

    def run(duration: float) -> list[int]:
        global _START  # noqa: PLW0603 - seeds never repeat in the whole benchmark
        _START = (_START + 20_000_000) % 2**30
        lines = "".join(f'wrk.headers["{key}"] = "{value}"\n' for key, value in headers.items())
        lua = LUA.format(
            head="[==[" + head.decode() + "]==]", count=load.batch, columns=str(bool(head)).lower(),
            again=str(repeat).lower(), start=_START,
        )  # fmt: skip
        script.write_text(lines + lua)
        command = ["wrk", "-t1", f"-c{load.clients}", f"-d{max(1, round(duration))}s", "--timeout", "20s"]
        said = subprocess.run(
            [*command, "-s", str(script), f"http://{address}{path}"], check=True, capture_output=True, text=True
        ).stdout
        result = re.search(r"RESULT (.*)", said)
        assert result
        return [int(value) for value in result[1].split()]

    run(1)
    before = processor_seconds(pid)
    requests, microseconds, p50, p95, p99, failed = run(seconds)
    used = processor_seconds(pid) - before
    images = max(1, requests * load.batch)
    return Measured(used / images * 1e6, images / (microseconds / 1e6), p50 / 1e3, p95 / 1e3, p99 / 1e3, failed)


def processor_seconds(pid: int) -> float:
    """User and system time of a process and all below it that live."""
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def proportional_bytes(pid: int) -> float:
    """Memory of a process and all below it, shared pages divided among those who share them."""
    root = psutil.Process(pid)
    return float(sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)]))


if __name__ == "__main__":
    main()
