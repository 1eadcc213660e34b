"""release, rollback, releases, verify and gc, on a real store, a real Git remote and a real Triton."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import REPOSITORY
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "releases"))

from tiny_bundle import tiny_bundle, tiny_spec, unsealed

from troika.cli import app
from troika.releases import local, pointer
from troika.releases.bundle import Bundle, seal
from troika.releases.store import publish
from troika.serving.triton import TritonServer


def troika(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and all output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STORE", "RELEASE_REMOTE", "ENVIRONMENT", "VERIFY_KEY", "SIGNING_KEY"):
        monkeypatch.delenv(f"TROIKA_{name}", raising=False)
    monkeypatch.setenv("TROIKA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put_into_store(home: Path, bundle: Bundle) -> str:
    """Publish with a verdict that has a figure; returns the verdict's hash."""
    measure = {"name": "label_agreement", "value": 0.99, "limit": ">= 0.97"}
    verdict = {"decision": "promote", "bundle_digest": bundle.digest, "reasons": [], "measures": [measure]}
    record = json.dumps(verdict).encode()
    publish(bundle, record, local.store_url(home))
    return f"sha256:{hashlib.sha256(record).hexdigest()}"


@pytest.fixture
def bundles(home: Path, tmp_path: Path) -> list[Bundle]:
    """Three published models."""
    made = [tiny_bundle(tmp_path / f"bundle{number}", note=str(number)) for number in range(3)]
    for bundle in made:
        put_into_store(home, bundle)
    return made


def current(home: Path, environment: str = "local") -> pointer.Release | None:
    return pointer.read_release(local.release_remote(home), environment)


def digest_of(home: Path, environment: str = "local") -> str | None:
    found = current(home, environment)
    return found.digest if found else None


def test_release_promote_history_and_rollback(home: Path, bundles: list[Bundle]) -> None:
    first, second, _ = bundles
    status, said = troika("release", first.digest[7:19], "--to", "staging")
    assert status == 0, said
    assert "Triton gives its 3 golden images (largest difference 0 of 255)" in said
    assert "staging: version 1 released" in said
    assert troika("release", second.digest, "--to", "staging")[0] == 0
    assert "already current" in troika("release", second.digest, "--to", "staging")[1]

    status, said = troika("release", "--from", "staging", "--to", "production")
    assert (status, digest_of(home, "production")) == (0, second.digest), said
    ours, theirs = current(home, "production"), current(home, "staging")
    assert ours is not None
    assert theirs is not None
    assert (ours.verdict_sha256, ours.store) == (theirs.verdict_sha256, theirs.store)

    status, said = troika("rollback", "--to", "staging")
    assert (status, digest_of(home, "staging")) == (0, first.digest), said
    status, said = troika("releases", "--to", "staging")
    newest, middle, oldest = said.splitlines()
    assert newest.endswith("current, rollback")
    assert "promote (label_agreement 0.99)" in middle
    assert middle.split()[0] == "2"
    assert not oldest.endswith("rollback")
    rows = json.loads(troika("releases", "--to", "staging", "--json", "-n", "2")[1])
    assert [row["version"] for row in rows] == [1, 2]
    assert rows[0]["verdict"]["decision"] == "promote"


def spoil_golden(folder: Path) -> str:
    with np.load(folder / "golden.npz") as golden:
        content = dict(golden)
    content["image"] = content["image"] + np.uint8(2)
    np.savez(folder / "golden.npz", **content)
    return "does not answer as promised: image 0 (seed 0) differs by"


def empty_golden(folder: Path) -> str:
    (folder / "golden.npz").write_bytes(b"nothing")
    return "golden.npz cannot be read"


def spoil_graph(folder: Path) -> str:
    (folder / "graph_repository" / "tiny_graph" / "1" / "model.onnx").write_bytes(b"nonsense")
    return "Triton cannot serve tiny"


def spoil_code(folder: Path) -> str:
    path = folder / "model_repository" / "tiny" / "1" / "model.py"
    path.write_text("import nothing_of_that_name\n" + path.read_text())
    return "No module named 'nothing_of_that_name'"


def lie_about_digest(folder: Path) -> str:
    path = folder / "model_repository" / "tiny" / "1" / "model.py"
    text = path.read_text()
    assert "np.frombuffer(digest, " in text
    path.write_text(text.replace("np.frombuffer(digest, ", "np.frombuffer(digest[::-1], "))
    return "Triton says that it serves"


@pytest.mark.parametrize("spoil", [spoil_golden, empty_golden, spoil_graph, spoil_code, lie_about_digest])
def test_a_model_that_fails_on_a_real_triton_is_never_released(
    home: Path, bundles: list[Bundle], tmp_path: Path, spoil: Any
) -> None:
    assert troika("release", bundles[0].digest)[0] == 0
    folder = unsealed(tmp_path / "bad")
    words = spoil(folder)
    digest = seal(folder, "tiny", tiny_spec(conditional=True), {})
    put_into_store(home, Bundle.open(folder))
    status, said = troika("release", digest)
    assert status == 1
    assert words in said
    assert digest_of(home) == bundles[0].digest
    assert len(pointer.read_history(local.release_remote(home), "local")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["release"], "give either the digest of a published model, or --from"),
        (["release", "abc", "--from", "staging"], "give either"),
        (["release", "123456"], "is the digest of 0 models"),
        (["release", "12345"], "6 digits at least"),
        (["release", "--from", "staging"], "nothing has been released to staging"),
        (["release", "--from", "../x"], "environment '../x' is not usable"),
        (["rollback"], "nothing has been released to local, so there is nothing to go back to"),
        (["releases"], "nothing has been released to local"),
        (["verify"], "nothing has been released to local"),
        (["gc"], "nothing is to be kept"),
        (["gc", "--keep", "digits"], "give MODEL@sha256:"),
    ],
)
def test_what_cannot_be_done_is_said(home: Path, bundles: list[Bundle], arguments: list[str], words: str) -> None:
    status, said = troika(*arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert words in said


def test_a_rollback_to_what_is_gone_is_refused(home: Path, bundles: list[Bundle]) -> None:
    for bundle in bundles[:2]:
        troika("release", bundle.digest)
    (graph,) = (home / "store").glob(f"tiny/{bundles[0].digest.replace(':', '-')}/graph_repository/*/1/model.onnx")
    graph.unlink()
    status, said = troika("rollback")
    assert status == 1
    assert "model.onnx is missing" in said
    assert digest_of(home) == bundles[1].digest


@pytest.fixture
def replicas(bundles: list[Bundle]) -> Iterator[list[str]]:
    """One serves the first model, another the second."""
    with (
        TritonServer(bundles[0].folder, exit_seconds=0) as one,
        TritonServer(bundles[1].folder, exit_seconds=0) as other,
    ):
        yield [f"127.0.0.1:{server.state.grpc_port}" for server in (one, other)]


def test_verify_follows_the_chain_to_every_replica(
    home: Path, bundles: list[Bundle], replicas: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    troika("release", bundles[0].digest)
    status, said = troika("verify", "--server", replicas[0])
    assert status == 0, said
    assert [line.split()[:2] for line in said.splitlines()] == [
        ["ok", "pointer"], ["ok", "store"], ["ok", "verdict"], ["ok", "server"],
    ]  # fmt: skip
    status, said = troika("verify", "--server", replicas[0], "--server", replicas[1])
    assert status == 1
    assert f"FAILED  server   {replicas[1]} serves {bundles[1].digest}" in said

    key = tmp_path / "key.pub"
    key.write_text("no key")
    with monkeypatch.context() as patch:
        patch.setenv("TROIKA_VERIFY_KEY", str(key))
        assert "FAILED  store" in troika("verify")[1]

    (verdict,) = (home / "store").glob(f"tiny/{bundles[0].digest.replace(':', '-')}.verdicts/*.json")
    content = verdict.read_bytes()
    verdict.unlink()
    assert "FAILED  verdict" in troika("verify")[1]
    verdict.write_bytes(content.replace(b"promote", b"reject!"))
    assert "was changed" in troika("verify")[1]
    verdict.write_bytes(content)
    assert troika("verify")[0] == 0


def test_gc_keeps_what_git_and_people_name(home: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    others = [tiny_bundle(tmp_path / f"other{number}", note=f"other{number}") for number in range(2)]
    for bundle in others:
        put_into_store(home, bundle)
    for bundle in bundles:
        troika("release", bundle.digest, "--to", "staging")
    troika("release", others[0].digest, "--to", "production")
    then = time.time() - 30 * 86400
    for path in (home / "store").rglob("*"):
        os.utime(path, (then, then))

    def entries() -> set[str]:
        return {path.parent.name for path in (home / "store").glob("tiny/*/manifest.json")}

    everything = entries()
    status, said = troika("gc")
    assert status == 0, said
    assert f"would go  tiny/{others[1].digest.replace(':', '-')}" in said
    assert "1 would be removed; --yes does it" in said
    assert entries() == everything
    assert "0 would be removed" in troika("gc", "--keep", f"tiny@{others[1].digest}")[1]
    assert "0 would be removed" in troika("gc", "--older-than", "60")[1]
    assert "1 removed" in troika("gc", "--yes")[1]
    assert everything - entries() == {others[1].digest.replace(":", "-")}
    # Of what was served long ago only the current one and its predecessor stay.
    assert "1 removed" in troika("gc", "--yes", "--keep-days", "0")[1]
    assert bundles[0].digest.replace(":", "-") not in entries()
    assert troika("rollback", "--to", "staging")[0] == 0


def test_the_commands_are_listed_with_examples() -> None:
    for command in ("release", "rollback", "releases", "verify", "gc"):
        done = subprocess.run(
            [sys.executable, "-m", "troika.cli", command, "--help"],
            cwd=REPOSITORY, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert f"troika {command}" in done.stdout.split("Example")[-1]
