"""What a serving container runs: fetch the model unless it is there, check every byte, run Triton, watch over it.

    python -m troika.serving.container

Settings are environment variables, which `--help` lists. TROIKA_ADMIN_KEY, or the file TROIKA_ADMIN_KEY_FILE,
opens Triton's management, which is closed otherwise. Exit status 1: the model must not be served, or Triton or
one of its model processes has died; Kubernetes then starts the container again. SIGTERM lets requests end.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from troika.errors import ParameterError, ServerError, TroikaError
from troika.releases.bundle import Bundle
from troika.releases.keys import admin_key
from troika.serving.health import STATE_FILE
from troika.serving.model_fetch import VerifyKey, fetch_model, verify_key_of
from troika.serving.triton import TritonServer, stop_on_signals
from troika.serving.triton_process import find_installation
from troika.serving.triton_version import OLDEST_SAFE, complaint

_TRITON = Path("/opt/tritonserver/bin/tritonserver")
_TARGET = Path("/models/bundle")
_SHOWN_AT_ONCE = 2**16


def main(
    digest: Annotated[str, typer.Option(envvar="TROIKA_DIGEST", help="sha256:<hex>, from release.yaml.")],
    target: Annotated[
        Path, typer.Option(envvar="TROIKA_TARGET", help="The bundle's folder, or where it is to be.")
    ] = _TARGET,
    store: Annotated[
        str | None,
        typer.Option(envvar="TROIKA_STORE", help="URL of the model store; without it the bundle must be there."),
    ] = None,
    model: Annotated[str | None, typer.Option(envvar="TROIKA_MODEL", help="Its name, with a store.")] = None,
    verify_key: VerifyKey = None,
    graph_backend: Annotated[
        str | None,
        typer.Option(
            envvar="TROIKA_GRAPH_BACKEND",
            help="onnxruntime, cuda or tensorrt: Triton's own backend; default: ONNX Runtime in Python.",
        ),
    ] = None,
    http_port: Annotated[int, typer.Option(envvar="TROIKA_HTTP_PORT", min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(envvar="TROIKA_GRPC_PORT", min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(envvar="TROIKA_METRICS_PORT", min=1, max=65535)] = 8002,
    address: Annotated[
        str, typer.Option(envvar="TROIKA_ADDRESS", help="Where the ports are open; 127.0.0.1: behind a front.")
    ] = "0.0.0.0",
    tritonserver: Annotated[Path, typer.Option(envvar="TROIKA_TRITONSERVER", help="Program.")] = _TRITON,
    allow_old_triton: Annotated[
        bool,
        typer.Option(envvar="TROIKA_ALLOW_OLD_TRITON", help="Serve by a Triton with known faults all the same."),
    ] = False,
    grpc_connection_seconds: Annotated[
        int,
        typer.Option(
            envvar="TROIKA_GRPC_CONNECTION_SECONDS",
            min=0,
            help="After so long a gRPC connection is ended in peace, so that clients find new pods; 0: never.",
        ),
    ] = 300,
    exit_seconds: Annotated[
        float, typer.Option(envvar="TROIKA_EXIT_SECONDS", min=0, help="For requests in flight at the end.")
    ] = 45.0,
    start_seconds: Annotated[
        float, typer.Option(envvar="TROIKA_START_SECONDS", min=1, help="Until the model must be ready.")
    ] = 600.0,
) -> None:
    """Serve one model release over HTTP and gRPC."""
    try:
        key = verify_key_of(verify_key)
        if store is not None and model is None:
            raise ParameterError("TROIKA_MODEL must name the model, since TROIKA_STORE is given")
        if store is None and key is not None:
            raise ParameterError(
                "TROIKA_VERIFY_KEY needs TROIKA_STORE: a signature is in the store, not in the bundle"
            )
        _check_version(find_installation(tritonserver).version or OLDEST_SAFE, allow_old_triton)
        if store is not None and model is not None:
            fetch_model(store, model, digest, target, key)
        bundle = Bundle.open(target, digest)
        print(f"{bundle.model} {bundle.digest}: every byte is as it was published", flush=True)
        server = TritonServer(
            target, expected_digest=digest, address=address,
            http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port,
            tritonserver=tritonserver, graph_backend=graph_backend, admin_key=admin_key(),
            start_seconds=start_seconds, exit_seconds=exit_seconds, state_file=STATE_FILE,
            arguments=ageing(grpc_connection_seconds),
        )  # fmt: skip
        with stop_on_signals(), server:
            _check_version(server.triton_version, allow_old_triton)
            print(f"ready after {server.seconds_to_ready:.1f} s", flush=True)
            threading.Thread(target=_show, args=(Path(server.state.log),), daemon=True).start()
            server.wait()
    except TroikaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from None


def ageing(seconds: int) -> tuple[str, ...]:
    """Triton's options; what is under way on an old connection may still take a minute."""
    if not seconds:
        return ()
    return f"--grpc-max-connection-age={seconds * 1000}", "--grpc-max-connection-age-grace=60000"


def _check_version(found: str, allowed: bool) -> None:
    wrong = complaint(found)
    if wrong and not allowed:
        raise ServerError(f"{wrong}; build the image from a newer one, or set TROIKA_ALLOW_OLD_TRITON=true")
    if wrong:
        print(f"warning: {wrong}", file=sys.stderr, flush=True)


def _show(log: Path) -> None:
    """Print what Triton writes, as a container's log should hold it; of very much at once, the ends."""
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            if log.stat().st_size < file.tell():
                file.seek(0)  # what it held was moved aside, see log_limit.py
            text = file.read()
            if len(text) > _SHOWN_AT_ONCE:
                left_out = len(text) - _SHOWN_AT_ONCE
                half = _SHOWN_AT_ONCE // 2
                text = f"{text[:half]}\n... {left_out} characters left out ...\n{text[-half:]}"
            if text:
                print(text, end="", flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
