"""A server on this machine that speaks S3 over HTTP (moto's), and how to send everything there."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class S3Server:
    """Answers; after `fail_after` a number of requests more, and then says to each that it is out of order."""

    def __init__(self) -> None:
        self._left = float("inf")
        self._key: str | None = None
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        self._left -= 1
        if self._left < 0:
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        if self._key is not None and f"Credential={self._key}/" not in request.get("HTTP_AUTHORIZATION", ""):
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._application(request, start)
        return answer

    def fail_after(self, answers: float) -> None:
        """From now on answer so many; infinity: all."""
        self._left = answers

    def only_for(self, key: str) -> None:
        """From now on answer only to who signs with this access key."""
        self._key = key

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the end of the block."""
        thread = Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start one, make the bucket `models` unless one before has, set the environment."""
    server = S3Server()
    names = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        with server.running():
            s3fs.S3FileSystem(skip_instance_cache=True).makedirs("models", exist_ok=True)
            yield server
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
