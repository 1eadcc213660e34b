"""Start Troika's Triton or one of its peers on a graph, and ask it by one request; does not measure."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.serving_graph import CLASSES, LATENT, Shape
from troika.onnx_session import open_session, run_generator
from troika.releases.bundle import seal, write_triton_entry
from troika.serving.triton import TritonServer
from troika.serving.triton_process import choose_ports

PEERS = {
    "FastAPI, micro-batched": ("fastapi", ["fastapi==0.165.0", "uvicorn[standard]==0.54.0"]),
    "LitServe": ("litserve", ["litserve==0.2.19"]),
    "BentoML": ("bentoml", ["bentoml==1.4.39"]),
    "KServe": ("kserve", ["kserve==0.21.0"]),
}
TRITON = "Triton (Troika)"


@contextmanager
def serve(name: str, graph: Path, shape: Shape, environments: Path) -> Iterator[tuple[int, str, str]]:
    """Start a server; gives its process, address and path once it answers."""
    with ExitStack() as cleanup:
        if name == TRITON:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory())) / "bundle"
            write_bundle(folder, graph, shape)
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
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
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


def write_bundle(folder: Path, graph: Path, shape: Shape) -> None:
    """Write a bundle that Triton can serve, of the name `generator`."""
    spec = {"image_shape": list(shape), "latent_size": LATENT, "num_classes": CLASSES, "conditional": True}
    write_triton_entry(folder, "generator", graph, spec)
    for file in ("golden.npz", "parity.json", "model_card.md"):
        (folder / file).write_text("-")
    seal(folder, "generator", spec, {})


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
