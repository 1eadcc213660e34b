"""A server on this machine that speaks Google Cloud Storage's JSON API (gcp-storage-emulator's), and a key for it.

It answers only to who has fetched a token with the service account's key. Zonal buckets, which gcsfs asks for over
gRPC first, it does not know: that question is left out.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from threading import Thread

import gcsfs
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

_TOKEN = "token-of-the-service-account"  # noqa: S105 - of a test


class _Guarded(RequestHandler):
    """The emulator, behind the token that it gives out itself."""

    def do_GET(self) -> None:  # noqa: N802
        if self._allowed():
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        if self.path == "/token":
            self._send(200, {"access_token": _TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        elif self._allowed():
            super().do_POST()

    def _allowed(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {_TOKEN}"
        if not allowed:
            # Google would say 401 to nobody at all, which gcsfs tries six times more, ever more slowly.
            self._send(403, {"error": {"code": 403, "message": "no storage.objects.get access"}})
        return allowed

    def _send(self, status: int, answer: dict[str, object]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def gcs_server(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Start one with the bucket `models`, send gcsfs there; gives the key file of an account that may use it."""
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket("models", storage)
    server = HTTPServer(("127.0.0.1", 0), partial(_Guarded, storage))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    patch.setattr(gcsfs, "GCSFileSystem", gcsfs.core.GCSFileSystem)
    try:
        yield _key_file(folder / "account.json", f"{endpoint}/token")
    finally:
        gcsfs.core.GCSFileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()


def _key_file(path: Path, token_uri: str) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "test@test.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(account))
    path.chmod(0o600)
    return path
