"""Data sets out of every kind of remote, with credentials from the environment alone, and what a bad one holds."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import CGIHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from dvc_repositories import apart, begin, commit, push
from gcs_server import gcs_server
from raw_images import Made, prepare, random_images, write_folder
from s3_server import s3_server

from troika.datasets.dvc_source import fetch
from troika.errors import DatasetError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

DENIED = r"cannot read images of pictures at revision main from .*(403|[Ff]orbidden).*; are there credentials"
IMAGES, LABELS = random_images(40, size=(8, 8)), np.arange(40) % 2


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository that DVC tracks the folder `images` in, without a remote yet."""
    apart(tmp_path, monkeypatch)
    folder = write_folder(tmp_path / "pictures" / "images", IMAGES, LABELS).parent
    return begin(folder, "images")


def run(folder: Path, repository: Path | str) -> Made:
    return prepare(folder, "images", dvc={"repo": str(repository), "rev": "main"})


@pytest.fixture
def expected(tmp_path: Path) -> str:
    """The content hash of the same images from a plain folder."""
    write_folder(tmp_path / "plain", IMAGES, LABELS)
    return prepare(tmp_path / "out-plain", tmp_path / "plain").dataset.info.content_hash


def test_a_folder_as_remote(repository: Path, tmp_path: Path, expected: str) -> None:
    push(repository, str(tmp_path / "store"))
    assert run(tmp_path / "out", repository).dataset.info.content_hash == expected
    # The control: without the remote there is nothing to be had.
    (tmp_path / "store").rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"from remote store \(.*/store\): .*; was it pushed there\?"):
        run(tmp_path / "out2", repository)
    assert not (tmp_path / "out2" / "dataset").exists()


def test_s3_with_keys_from_the_environment(
    repository: Path, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as server:
        server.only_for("key")
        push(repository, "s3://models/pictures")
        assert run(tmp_path / "out", repository).dataset.info.content_hash == expected
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
        with pytest.raises(DatasetError, match=DENIED):
            run(tmp_path / "out2", repository)


def test_google_cloud_storage_with_a_key_file_from_the_environment(
    repository: Path, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gcs_server(tmp_path, monkeypatch) as key:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        push(repository, "gs://models/pictures")
        assert run(tmp_path / "out", repository).dataset.info.content_hash == expected
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        with pytest.raises(DatasetError, match=DENIED):
            run(tmp_path / "out2", repository)


@contextmanager
def git_server(root: Path) -> Iterator[str]:
    """Git's own HTTP back end, behind user and password; gives the URL without them."""
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()
    backend = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip()) / "git-http-backend"

    class Handler(CGIHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            answer = subprocess.run(
                [backend],
                input=body,
                env={
                    "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                    "QUERY_STRING": query, "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                },
                check=True,
                stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            head, _, content = answer.partition(b"\r\n\r\n")
            self.send_response(200)
            self.wfile.write(b"".join(self._headers_buffer))
            self._headers_buffer = []
            self.wfile.write(head + b"\r\n\r\n" + content)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_private_git_repository_with_a_password_from_the_environment(
    repository: Path, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(repository, str(tmp_path / "store"))
    askpass = tmp_path / "askpass"
    askpass.write_text('#!/bin/sh\ncase "$1" in Username*) echo me;; *) echo "$GIT_PASSWORD";; esac\n')
    askpass.chmod(0o700)
    monkeypatch.setenv("GIT_ASKPASS", str(askpass))
    with git_server(tmp_path) as url:
        monkeypatch.setenv("GIT_PASSWORD", "wrong")
        with pytest.raises(DatasetError, match=r"cannot read images of http://127\.0\.0\.1:\d+/pictures/\.git"):
            run(tmp_path / "out2", f"{url}/pictures/.git")
        monkeypatch.setenv("GIT_PASSWORD", "secret")
        made = run(tmp_path / "out", f"{url}/pictures/.git")
    assert made.dataset.info.content_hash == expected
    assert "secret" not in made.report + (made.folder / "dataset/dataset.json").read_text()


@pytest.mark.parametrize("evil", ["../evil.png", "a/../../evil.png", "/evil.png"])
def test_a_tree_that_leads_out_of_its_folder_is_refused(repository: Path, tmp_path: Path, evil: str) -> None:
    """Who can write to the remote can write any names into DVC's list of a folder's files."""
    store = tmp_path / "store" / "files" / "md5"
    push(repository, str(tmp_path / "store"))
    pointer = repository / "images.dvc"
    old = next(line.split()[-1] for line in pointer.read_text().splitlines() if "md5:" in line and ".dir" in line)
    entries = json.loads((store / old[:2] / old[2:]).read_text())
    entries[0]["relpath"] = evil
    listed = json.dumps(entries).encode()
    new = hashlib.md5(listed).hexdigest() + ".dir"  # noqa: S324
    (store / new[:2]).mkdir(exist_ok=True)
    (store / new[:2] / new[2:]).write_bytes(listed)
    pointer.write_text(pointer.read_text().replace(old, new))
    commit(repository)
    (tmp_path / "in" / "here").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"the data is refused: '/images/.*' leads out of /images"):
        fetch(str(repository), "main", "images", tmp_path / "in" / "here")
    assert not list(tmp_path.rglob("evil.png"))
    assert not Path("/evil.png").exists()


def test_a_link_in_the_repository_is_not_followed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (repository / "linked").mkdir()
    (repository / "linked" / "a.png").symlink_to(tmp_path / "secret")
    commit(repository)
    (tmp_path / "in").mkdir()
    target, _ = fetch(str(repository), "main", "linked", tmp_path / "in")
    assert (target / "a.png").read_bytes() == os.fsencode(tmp_path / "secret"), (
        "the link's own text, as Git has it"
    )
