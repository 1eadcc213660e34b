"""What ends or exhausts a bare Triton does neither behind the front; docs/serving-safety.md says just that."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import ATTACKS, MEBIBYTE, REQUEST_SECONDS, Attack, call, classified, message, post, request
from proxy import needs_haproxy
from quick import REPOSITORY
from tiny_bundle import tiny_bundle, tiny_spec, unsealed

from troika.releases import bundle as bundle_module
from troika.releases.bundle import Bundle, seal
from troika.serving.client import Client
from troika.serving.triton import TritonServer

OUTPUTS = ["image", "model_digest", "seed_used", "png", "png_size"]
ENOUGH = 48 * MEBIBYTE
"""No request may take as much memory; half of what the larger attacks send."""
DEADLY = {"ends": "dies of it", "takes memory": "takes memory out of proportion", "waits": "waits for ever"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("attacked") / "bundle")


@pytest.fixture(scope="module")
def fronted(bundle: Bundle) -> Iterator[TritonServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TROIKA_FRONT_REQUEST_SECONDS", str(REQUEST_SECONDS))
        with TritonServer(bundle.folder, exit_seconds=0, front=True) as server:
            yield server


class Bare:
    """A Triton that is started again when it has been killed."""

    def __init__(self, bundle: Bundle, log: Path) -> None:
        self._bundle, self._log = bundle, log
        self._server: TritonServer | None = None

    def get(self) -> TritonServer:
        if self._server is None or not self._server.state.alive():
            self.close()
            self._server = TritonServer(self._bundle.folder, exit_seconds=0, log_file=self._log)
            self._server.__enter__()
        return self._server

    def close(self) -> None:
        if self._server:
            self._server.__exit__(None, None, None)
        self._server = None


@pytest.fixture(scope="module")
def bare(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    bare = Bare(bundle, tmp_path_factory.mktemp("bare") / "log")
    yield bare
    bare.close()


def memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def suffered(server: TritonServer, attack: Attack) -> tuple[str, str]:
    """The answer, and what the server has suffered, or nothing."""
    pid = server.state.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what it uses now
    before = memory(pid, "VmRSS")
    answer = attack.send(server)
    deadline = time.monotonic() + 5
    while server.state.alive() and time.monotonic() < deadline and post(server, request()) != "200":
        time.sleep(0.1)  # one that dies writes a trace first
    if not server.state.alive():
        return answer, "ended"
    assert post(server, request()) == "200"
    if answer == "waits":
        return answer, "waits"
    return answer, "took memory" if memory(pid, "VmHWM") - before > ENOUGH else ""


@needs_haproxy
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_behind_the_front_a_request_does_no_harm(fronted: TritonServer, attack: Attack) -> None:
    answer, harm = suffered(fronted, attack)
    assert not harm
    assert answer in attack.front


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=attack.name,
            marks=pytest.mark.xfail(reason=f"Triton 2.51 {DEADLY[attack.bare]}: {attack.name}", strict=True)
            if attack.bare in DEADLY
            else (),
        )
        for attack in ATTACKS
    ],
)
def test_a_bare_triton_suffers_from_what_is_named(bare: Bare, attack: Attack) -> None:
    answer, harm = suffered(bare.get(), attack)
    assert not harm, harm
    assert (answer in {"200", "OK", "400", "500", "closed"}) == (attack.bare == "answers"), answer


@pytest.mark.parametrize("classes", [1, 2, 2**31, 2**40])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_can_be_classified(bare: Bare, output: str, classes: int) -> None:
    """No output is text, of which Triton 2.51 dies; classes of numbers are of no use, and harmless."""
    server = bare.get()
    asked = request(outputs=[{"name": output, "parameters": {"classification": classes}}])
    assert post(server, asked) == "200"
    assert call(server, classified(output, classes)) == "OK"
    assert post(server, request()) == "200"


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": 5, "sequence_start": True}, {"sequence_id": "a"}, {"priority": 2**64 - 1},
        {"priority": -1}, {"timeout": 0}, {"timeout": -1}, {"timeout": 2**63},
        {"binary_data_output": True}, {"headers": {"a": 1}},
        {"triton_final_response": True}, {"x" * 10_000: 1},
    ],
    ids=lambda parameters: str(parameters)[:24],
)  # fmt: skip
def test_parameters_of_a_request_do_no_harm(
    bare: Bare, fronted: TritonServer, parameters: dict[str, object]
) -> None:
    for server in (bare.get(), fronted):
        assert post(server, request(parameters=parameters)) in {"200", "400", "500"}
        assert post(server, request()) == "200"


@pytest.mark.parametrize("size", [-1, 0, 7, 9, 2**31, 2**40, 2**63])
@pytest.mark.parametrize(
    "kind", ["binary_data_size", "shared_memory_byte_size", "shared_memory_offset", "classification"]
)
def test_sizes_that_are_not_true_do_no_harm(bare: Bare, fronted: TritonServer, kind: str, size: int) -> None:
    parameters = {kind: size, **({"shared_memory_region": "x"} if kind.startswith("shared") else {})}
    seed = {"name": "seed", "datatype": "INT64", "shape": [1, 1], "parameters": parameters}
    outputs = [{"name": "image", "parameters": parameters}]
    for server in (bare.get(), fronted):
        for asked in (request(seed=seed), request(outputs=outputs)):
            assert post(server, asked) in {"200", "400", "404", "500"}
            assert post(server, request()) == "200"


@needs_haproxy
def test_what_clients_need_goes_through_the_front(fronted: TritonServer, bundle: Bundle) -> None:
    state = fronted.state
    for protocol, port in (("grpc", state.grpc_port), ("http", state.http_port)):
        with Client(f"127.0.0.1:{port}", protocol, model="tiny") as client:  # type: ignore[arg-type]
            assert client.generate(150).model_digest == bundle.digest
            assert len(client.generate_from_latents([[0.5, 1.0]] * 64, labels=3).images) == 64  # type: ignore[arg-type]


def old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle as version 1 was: `model_digest` is text."""
    unsealed(folder)
    entry = folder / "model_repository" / "tiny"
    for file, new, old in (
        (entry / "config.pbtxt", '"model_digest" data_type: TYPE_UINT8 dims: [ 32 ]',
         '"model_digest" data_type: TYPE_STRING dims: [ 1 ]'),
        (entry / "1" / "model.py", "self._digest = np.frombuffer(digest, dtype=np.uint8)",
         'self._digest = np.array([f"sha256:{digest.hex()}".encode()], dtype=np.object_)'),
    ):  # fmt: skip
        text = file.read_text()
        assert new in text
        file.write_text(text.replace(new, old))
    monkeypatch.setattr(bundle_module, "SCHEMA_VERSION", 1)
    return Bundle.open(folder, seal(folder, "tiny", tiny_spec(conditional=True), {}))


@needs_haproxy
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_bundle_of_version_1_is_served_read_and_safe_behind_the_front_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    bundle = old_bundle(tmp_path / "bundle", monkeypatch)

    def attack(server: TritonServer) -> str:
        if protocol == "grpc":
            return call(server, classified("model_digest"))
        return post(server, request(outputs=[{"name": "model_digest", "parameters": {"classification": 2}}]))

    with TritonServer(bundle.folder, exit_seconds=0, front=True) as server:
        with Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny") as client:
            assert client.generate(3).model_digest == bundle.digest
        assert attack(server) in {"400", "INVALID_ARGUMENT"}
        assert post(server, request()) == "200"
    with TritonServer(bundle.folder, exit_seconds=0, log_file=tmp_path / "log") as server:
        assert post(server, request()) == "200"
        assert attack(server) in {"closed", "UNAVAILABLE"}  # the control: bare it dies


@needs_haproxy
def test_a_model_of_an_unlucky_name_can_still_be_asked(fronted: TritonServer) -> None:
    """Its name is where the key of a parameter is refused."""
    asked = message()
    asked.model_name = "classification"
    assert call(fronted, asked.SerializeToString()) == "NOT_FOUND"


@needs_haproxy
def test_the_page_on_safety_lists_what_was_tried() -> None:
    page = (REPOSITORY / "docs" / "serving-safety.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|[^|]*\| ([a-z ]+) \| ([^|]*) \|$", page, re.MULTILINE)
    told = {name: (bare, tuple(re.findall(r"[A-Z_]{6,}|\d{3}|closed", front))) for name, bare, front in rows}
    assert told == {attack.name: (attack.bare, attack.front) for attack in ATTACKS}


def test_this_machine_can_tell_memory() -> None:
    assert memory(os.getpid(), "VmHWM") >= memory(os.getpid(), "VmRSS") > MEBIBYTE
