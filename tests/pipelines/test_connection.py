"""One sentence for whatever stands between a person and Kubeflow's API server; the servers here are real ones."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubeflow_commands import submit, troika
from pipelines_fake import FakeKubeflow, fake_kubeflow, recorded

from pipelines import connection
from pipelines.certificates import tls_hint
from pipelines.connection import Connection, KubeflowError, judge_version, refusal
from troika.errors import ParameterError


def follow(url: str, *more: str) -> tuple[int, str]:
    return troika("follow", "r0", "--host", url, *more)


def told(output: str) -> str:
    """The one sentence of an error."""
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in output
    return line


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubeflow.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_self_signed_certificate_is_named_and_ca_trusts_it(
    certificate: tuple[Path, Path], fake: FakeKubeflow
) -> None:
    with fake_kubeflow(certificate) as secure:
        secure.plays = [{"state": "SUCCEEDED"}]
        status, output = follow(secure.url)
        assert status == 3
        assert "its certificate is self-signed; give the authority's certificate with --ca FILE" in told(output)
        assert follow(secure.url, "--ca", str(certificate[0]))[0] == 0
        assert "does not speak TLS" in told(follow(fake.url.replace("http", "https"))[1])
    for bad in (certificate[1], certificate[0].with_name("no-such.pem")):
        assert f"--ca {bad}: cannot be used" in told(follow(fake.url, "--ca", str(bad))[1])


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("localhost:8080", "must begin with http:// or https://"),
        ("ftp://kubeflow.test", "must begin with http:// or https://"),
        ("http://", "must begin with"),
        ("http://[::1", "this is no URL"),
        ("http://kubeflow.test:port", "this is no URL"),
        ("http://kubeflow.test/#/pipelines", "leave out what stands after"),
        ("http://me:secret@kubeflow.test", "leave the password out"),
        ("me:secret@kubeflow.test:80", "must begin with"),
        ("ftp://me:secret@kubeflow.test", "must begin with"),
        ("http://me:secret@kubeflow.test:port", "this is no URL"),
        ("http://no-such-host.invalid", "its name cannot be resolved"),
        ("http://127.0.0.1:9", "connection refused"),
    ],
)
def test_a_wrong_address_is_one_sentence(fake: FakeKubeflow, host: str, words: str) -> None:
    status, output = follow(host)
    assert status == (3 if "no-such-host" in host or host.endswith(":9") else 1)
    assert words in told(output)
    assert "secret" not in output


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_is_one_sentence(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TIMEOUT", (1, 1))
    with pytest.raises(KubeflowError, match="no answer in time") as raised:
        Connection(silent, "kubeflow")
    assert raised.value.transient


def test_a_server_that_drops_connections_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drop() -> None:
            while True:
                try:
                    listening.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=drop, daemon=True).start()
        with pytest.raises(KubeflowError, match="the connection dropped"):
            Connection(f"http://127.0.0.1:{listening.getsockname()[1]}", "kubeflow")


def test_a_login_page_is_told_as_such(fake: FakeKubeflow) -> None:
    fake.faults = ["page"]
    status, output = submit(fake)
    assert status == 1
    assert "a page instead of JSON; is there a login in front of it?" in told(output)
    fake.health = []  # type: ignore[assignment]
    assert "instead of JSON" in told(submit(fake)[1])


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("a\nb", "there is a line break, white space or another character in it"),
        ("a b", "there is a line break"),
        ("Bearer abc", "give the token alone, without 'Bearer' before it"),
        ("bearer abc", "give the token alone"),
        ("tökén", "there is a line break, white space or another character in it"),
        ("  \n", "there is no token in it"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, words: str
) -> None:
    monkeypatch.setenv("TROIKA_KUBEFLOW_TOKEN", token)
    assert words in told(submit(fake)[1])
    (tmp_path / "token").write_text(token)
    output = submit(fake, "--token-file", str(tmp_path / "token"))[1]
    assert words in told(output)
    assert not fake.paths


def test_a_token_is_read_anew_from_its_file_for_each_request(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    fake.token = "first"  # noqa: S105
    fake.plays = [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "SUCCEEDED"}]

    def renew(_: float) -> None:
        """The token expires during the first pause, and is renewed during the next."""
        if fake.token == "first":  # noqa: S105
            fake.token = "second"  # noqa: S105
        else:
            file.write_text("second\n")

    monkeypatch.setattr("pipelines.connection.time.sleep", renew)
    status, output = submit(fake, "--token-file", str(file))
    assert status == 0, output
    assert {"Bearer first", "Bearer second"} <= set(fake.tokens)
    assert "answered 401" in output


def test_a_token_file_that_is_missing_is_named(fake: FakeKubeflow, tmp_path: Path) -> None:
    output = submit(fake, "--token-file", str(tmp_path / "none"))[1]
    assert f"--token-file {tmp_path / 'none'}: cannot be read (No such file or directory)" in told(output)


@pytest.mark.parametrize("token", [None, "another"])
def test_a_missing_and_a_wrong_token_are_told(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    fake.token = "right"  # noqa: S105
    if token is None:
        monkeypatch.delenv("TROIKA_KUBEFLOW_TOKEN")
    else:
        monkeypatch.setenv("TROIKA_KUBEFLOW_TOKEN", token)
    status, output = submit(fake)
    assert status == 1
    assert "answered 401: Failed to check authorization" in told(output)
    assert "the token is missing, wrong or expired: give --token-file or TROIKA_KUBEFLOW_TOKEN" in output


def test_a_foreign_namespace_is_told(fake: FakeKubeflow) -> None:
    status, output = submit(fake, "--namespace", "default")
    assert status == 1
    assert "answered 403: User 'system:serviceaccount:troika-training:submitter' is not authorized" in told(output)
    assert "in namespace default (--namespace)?" in output


def test_a_wrong_namespace_is_refused_before_anything_is_sent(fake: FakeKubeflow) -> None:
    assert "--namespace 'My Team': a namespace has lower-case letters" in told(
        submit(fake, "--namespace", "My Team")[1]
    )


@pytest.mark.parametrize("name", list(recorded("errors")))
def test_both_shapes_of_refusals_become_one_line(name: str) -> None:
    body = recorded("errors")[name]["body"]
    said = refusal(json.dumps(body))
    assert said
    assert "\n" not in said
    assert "github.com" not in said
    assert said != "Internal Server Error"


@pytest.mark.parametrize("body", [None, "", "<html>", "[]", "{}", '{"details": ["x"], "message": null}', b"\xff"])
def test_a_refusal_in_no_known_shape_gives_no_words(body: str | bytes | None) -> None:
    assert refusal(body) == ""


@pytest.mark.parametrize("status", [400, 404, 409, 500, 501])
def test_a_refusal_with_a_page_is_one_sentence(fake: FakeKubeflow, status: int) -> None:
    fake.faults = [status]
    found, output = submit(fake)
    assert found == 1
    assert f"answered {status}" in told(output)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [429, 502, 503, 504])
def test_the_first_question_survives_a_transient_failure(fake: FakeKubeflow, fault: int) -> None:
    fake.health_faults = [fault, fault]
    status, output = follow(fake.url)
    assert status == 0, output
    assert output.count("asking again for 10 min") == 1


@pytest.mark.usefixtures("no_waiting")
def test_a_login_page_while_following_is_met_by_a_token_that_is_renewed(
    fake: FakeKubeflow, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("token-of-test")
    fake.plays = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    fake.faults = ["page", "page"]
    assert follow(fake.url, "--token-file", str(tmp_path / "token"))[0] == 0


def test_a_redirect_without_end_is_no_dropped_connection(fake: FakeKubeflow) -> None:
    fake.faults = ["redirect"] * 100
    assert "it redirects for ever; is there a login in front of it?" in told(follow(fake.url)[1])


@pytest.mark.parametrize(
    "words",
    [
        "certificate has expired (_ssl.c:992)",
        "Hostname mismatch, certificate is not valid for 'a'",
        "WRONG_VERSION_NUMBER",
    ],
)
def test_another_authority_is_not_asked_for_where_it_would_not_help(words: str) -> None:
    assert tls_hint(words) == ""
    assert "--ca" in tls_hint("unable to get local issuer certificate")


def test_a_file_of_certificates_that_is_a_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Is a directory"):
        Connection("http://127.0.0.1:9", "kubeflow", ca=tmp_path)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [429, 502, 503, 504, "drop", "lost"])
def test_each_request_of_submit_survives_a_transient_failure(fake: FakeKubeflow, fault: int | str) -> None:
    submit(fake, "--no-follow")
    requests = len(fake.paths)
    with fake_kubeflow() as other:
        other.plays = [{"state": "SUCCEEDED"}]
        other.fault_of_each = fault
        status, output = submit(other)
    assert status == 0, output
    assert (len(other.versions), len(other.runs), len(other.experiments)) == (1, 1, 1)
    assert len(other.paths) > requests


def test_one_that_stays_away_is_given_up_after_the_patience(fake: FakeKubeflow, no_waiting: None) -> None:
    fake.faults = [503] * 10_000
    status, output = submit(fake, "--patience", "1")
    assert status == 1
    assert "answered 503" in told(output)


@pytest.mark.parametrize(
    ("tag", "words"),
    [("2.17.0", None), ("v2.16.0", None), ("2.15.9", "needs 2.16 or newer"), ("unknown", "cannot be checked")],
)
def test_a_version_is_judged_by_what_is_used(tag: str, words: str | None) -> None:
    said = judge_version(tag, ["securityContext", "pvcMount"])
    assert (said is None) if words is None else (words in str(said))


def test_an_authority_is_checked_before_anything_is_sent() -> None:
    with pytest.raises(ParameterError, match="--ca"):
        Connection("http://127.0.0.1:9", "kubeflow", ca=Path("/nonexistent"))
