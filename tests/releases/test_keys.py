"""What safety depends on is refused where it is set and of no use, and never skipped."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_signing import make_keys, published
from tiny_bundle import tiny_bundle

from troika.credentials import without_credentials
from troika.errors import ParameterError, StoreError, TroikaError
from troika.releases import keys, local
from troika.releases.storage import open_storage

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize("name", ["TROIKA_VERIFY_KEY", "TROIKA_SIGNING_KEY"])
@pytest.mark.parametrize("value", ["", " ", "\n", "no-such-file.pem", "."])
def test_a_key_that_is_set_and_of_no_use_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask: Callable[[], Path | None] = local.verify_key if "VERIFY" in name else local.signing_key
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(name, raising=False)
    assert ask() is None
    monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=rf"{name}.*(is set, but empty|is no file)"):
        ask()


@pytest.mark.parametrize("value", ["", " ", "no-such-file.pem"])
@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("program", ["model_fetch", "container"])
def test_a_pod_does_not_serve_unsigned_models_for_an_empty_setting(
    program: str, option: bool, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    published(bundle, tmp_path / "store")
    command = [sys.executable, "-m", f"troika.serving.{program}", "--store", str(tmp_path / "store")]
    command += ["--model", "tiny", "--digest", bundle.digest, "--target", str(tmp_path / "target")]
    if option:
        command += ["--verify-key", value]
    else:
        monkeypatch.setenv("TROIKA_VERIFY_KEY", value)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "is set, but empty" in done.stderr or "is no file" in done.stderr
    assert not (tmp_path / "target").exists()


def test_a_container_without_a_store_cannot_check_a_signature_and_says_so(tmp_path: Path) -> None:
    _, public = make_keys(tmp_path, "ours")
    bundle = tiny_bundle(tmp_path / "bundle")
    command = [sys.executable, "-m", "troika.serving.container", "--digest", bundle.digest]
    command += ["--target", str(bundle.folder), "--verify-key", str(public)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "TROIKA_VERIFY_KEY needs TROIKA_STORE" in done.stderr


def test_the_admin_key_comes_from_the_environment_or_a_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TROIKA_ADMIN_KEY", "TROIKA_ADMIN_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert keys.admin_key() is None
    (tmp_path / "key").write_text("from-a-file\n")
    monkeypatch.setenv("TROIKA_ADMIN_KEY_FILE", str(tmp_path / "key"))
    assert keys.admin_key() == "from-a-file"
    monkeypatch.setenv("TROIKA_ADMIN_KEY", "another")
    with pytest.raises(ParameterError, match="either"):
        keys.admin_key()
    monkeypatch.delenv("TROIKA_ADMIN_KEY_FILE")
    assert keys.admin_key() == "another"
    for value in ("", " ", "with blanks"):
        monkeypatch.setenv("TROIKA_ADMIN_KEY", value)
        with pytest.raises(ParameterError, match="admin key must be"):
            keys.admin_key()
    monkeypatch.delenv("TROIKA_ADMIN_KEY")
    monkeypatch.setenv("TROIKA_ADMIN_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ParameterError, match="cannot be read"):
        keys.admin_key()
    said = subprocess.run(
        [sys.executable, "-m", "troika.serving.container", "--admin-key", "x"], check=False, capture_output=True
    )
    assert said.returncode == 2


SECRET = "s3/cr+et"  # noqa: S105


@pytest.mark.parametrize(
    "store",
    [
        f"s3://key:{SECRET}@bucket",
        f"s3://:{SECRET}@bucket/folder",
        f"s3:/key:{SECRET}@bucket",
        f"gs://{SECRET}@bucket",
        f"s3://bucket?secret={SECRET}",
        f"file://me:{SECRET}@host/folder",
        f"https://me:{SECRET}@store.example/models",
    ],
)
def test_a_secret_in_a_stores_url_is_refused_and_not_repeated(store: str) -> None:
    with pytest.raises(StoreError, match="model store") as caught:
        open_storage(store)
    assert SECRET not in str(caught.value)
    assert "cr+et" not in str(caught.value)


def test_no_error_repeats_what_a_url_holds_of_secrets() -> None:
    secret, told = "x https://u:p@w@h/r and ssh://git@h/r", "x https://***@h/r and ssh://***@h/r"
    assert without_credentials(secret) == str(TroikaError(secret)) == told
    for plain in ("git@host:path", "file:///home/me@work/store", "http://h:1/v2", "s3://bucket/folder", "a@b"):
        assert without_credentials(plain) == plain
    assert without_credentials("get s3://b/f?key=secret, please") == "get s3://b/f?*** please"
