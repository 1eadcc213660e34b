"""Refusals, bad requests among good ones, servers that are silent, gone or changed: the client is told."""

import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from client_address import Protocol, url
from tiny_bundle import SHAPE, expected_images, tiny_bundle, tiny_spec, unsealed

from troika.errors import RequestError, ServerError
from troika.releases.bundle import seal
from troika.serving.client import Client
from troika.serving.tensors import Answer
from troika.serving.triton import TritonServer

AT_ONCE = 0.0


def ask_for(client: Client, rows: dict[str, list[Any]]) -> None:
    """Send rows as they are, which the client's own functions would refuse."""
    kinds = {"seed": np.int64, "label": np.int64, "latent": np.float32}
    arrays = {name: np.array(values, dtype=kinds[name]) for name, values in rows.items()}
    together = {name: values.reshape(len(values), -1) for name, values in arrays.items()}
    client._ask(lambda seconds: client._wire.infer(client.model.name, together, seconds))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"seed": [-1], "label": [0]}, "seed must be in 0.*got -1"),
        ({"seed": [1], "label": [10]}, r"label must be in 0\.\.9, got 10"),
        ({"seed": [1, 2], "label": [3, -4]}, r"label must be in 0\.\.9, got -4"),
        ({"seed": [1] * 65, "label": [1] * 65}, "batch-size must be <= 64"),
        ({"seed": [1]}, r"label is missing: give one class in 0\.\.9"),
        ({"label": [1]}, "give either seed or latent"),
        ({"latent": [[0.0, 0.0]], "seed": [[1]], "label": [[1]]}, "give either seed or latent"),
        ({"latent": [[0.0, np.nan]], "label": [[1]]}, r"latent must hold numbers in -10\.\.10"),
        ({"latent": [[0.0, np.inf]], "label": [[1]]}, r"latent must hold numbers in -10\.\.10"),
        ({"latent": [[-10.5, 0.0]], "label": [[1]]}, r"latent must hold numbers in -10\.\.10"),
        ({"latent": [[0.0, 0.0, 0.0]], "label": [[1]]}, "unexpected shape"),
        ({}, "give either seed or latent|must contain|expected"),
    ],
)
def test_the_server_refuses_too_and_again_when_asked_again(
    client: Client, rows: dict[str, list[Any]], words: str
) -> None:
    """So nothing keeps refusals and gives them out as successes, as Triton's own response cache would."""
    for _ in range(3):
        with pytest.raises(RequestError, match=words):
            ask_for(client, rows)
    assert client.generate(1).images.shape == (1, *SHAPE)


@pytest.fixture(scope="module")
def batching_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that surely puts requests together: it waits for others for a fifth of a second."""
    folder = unsealed(tmp_path_factory.mktemp("batching") / "bundle")
    config = folder / "model_repository" / "tiny" / "config.pbtxt"
    text = config.read_text().replace("max_queue_delay_microseconds: 0", "max_queue_delay_microseconds: 200000")
    config.write_text(text.replace("count: 2", "count: 1"))
    seal(folder, "tiny", tiny_spec(conditional=True), {})
    with TritonServer(folder, exit_seconds=AT_ONCE, admin_key="open") as running:
        yield running


def test_a_bad_request_in_a_batch_fails_alone(batching_server: TritonServer) -> None:
    rows = [(seed, seed % 10) for seed in range(330)]
    wrong = set(range(5, 330, 11))
    for number in wrong:
        rows[number] = [(number, 10), (-3, 1), (number, -1)][number % 3]
    answers: dict[int, tuple[Any, Any]] = {}
    done = threading.Semaphore(0)
    key = {"triton-grpc-protocol-troika-admin": "open"}
    with triton.InferenceServerClient(url(batching_server, "grpc")) as connection:
        before = connection.get_inference_statistics("tiny", headers=key).model_stats[0]
        for number, row in enumerate(rows):

            def answered(result: Any, error: Any, number: int = number) -> None:
                answers[number] = (result, error)
                done.release()

            inputs = [triton.InferInput(name, [1, 1], "INT64") for name in ("seed", "label")]
            for entry, value in zip(inputs, row, strict=True):
                entry.set_data_from_numpy(np.array([[value]]))
            connection.async_infer("tiny", inputs, answered)
        for _ in rows:
            assert done.acquire(timeout=20)
        after = connection.get_inference_statistics("tiny", headers=key).model_stats[0]
    # Negative control: they did travel together, on a slow machine less of them.
    assert after.execution_count - before.execution_count <= len(rows) / 5
    bad = {number for number, (_, error) in answers.items() if error}
    assert bad == wrong
    assert len(answers) - len(bad) == 300
    for number in wrong:
        words = ["label must be in 0..9, got 10", "seed must be in", "label must be in 0..9, got -1"][number % 3]
        assert words in str(answers[number][1])
    for number in set(answers) - bad:
        seed, label = rows[number]
        assert (answers[number][0].as_numpy("image") == expected_images([seed], [label])).all()


def test_why_tritons_response_cache_is_off(tmp_path: Path) -> None:
    """It keeps a refusal and answers the second time with success and nothing in it.

    When this fails after an upgrade of Triton, the cache may be worth switching on.
    """
    folder = unsealed(tmp_path / "bundle")
    config = folder / "model_repository" / "tiny" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    seal(folder, "tiny", tiny_spec(conditional=True), {})
    cache = ("--cache-config=local,size=1048576",)
    with (
        TritonServer(folder, exit_seconds=AT_ONCE, arguments=cache) as server,
        Client(url(server, "grpc"), model="tiny") as client,
    ):
        bad = {"seed": np.array([[-1]]), "label": np.array([[0]])}
        with pytest.raises(RequestError, match="seed must be in"):
            client._infer(bad)
        with pytest.raises(ServerError, match="response cache"):
            client._infer(bad)


def test_nobody_at_the_address_says_what_to_do(protocol: Protocol) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # Bound but not listening: nobody else can have it.
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(
            ServerError, match=rf"nothing answers {protocol} requests at {address} .*`troika serve`"
        ):
            Client(address, protocol, timeout=5)


def test_the_other_protocols_port_is_told(server: TritonServer) -> None:
    with pytest.raises(ServerError, match="HTTP and gRPC have different ports"):
        Client(url(server, "http"), "grpc", timeout=5)
    with pytest.raises(ServerError, match="HTTP and gRPC have different ports"):
        Client(url(server, "grpc"), "http", timeout=5)


def test_a_server_that_says_nothing_is_given_up(protocol: Protocol) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ServerError, match=r"did not answer in time|nothing answers"):
            Client(f"127.0.0.1:{silent.getsockname()[1]}", protocol, timeout=0.5)


def test_a_server_that_ends_in_between_is_told(tmp_path: Path, protocol: Protocol) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with TritonServer(bundle.folder, exit_seconds=AT_ONCE) as server:
        client = Client(url(server, protocol), protocol, timeout=5, model="tiny")
        client.generate(1)
    with client, pytest.raises(ServerError):
        client.generate(1)


def test_a_model_that_changes_between_two_requests_is_not_mixed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()
    really = Answer.as_numpy

    def of_another_server(self: Answer, name: str) -> Any:
        """A fake of two servers behind one address."""
        return np.array([[f"sha256:{next(numbers)}".encode()]]) if name == "model_digest" else really(self, name)

    monkeypatch.setattr(Answer, "as_numpy", of_another_server)
    assert client.generate(64).model_digest == "sha256:0"
    with pytest.raises(ServerError, match="changed its model"):
        client.generate(65)
