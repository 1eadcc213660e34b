"""What a client gets from a real Triton: the right images by both protocols, and errors that help."""

import base64
import io
import itertools
import json
import random
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tiny_bundle import SHAPE, expected_images, expected_of_latents, tiny_bundle, tiny_spec, unsealed

from troika.errors import RequestError, ServerError
from troika.releases.bundle import Bundle, seal
from troika.releases.triton_config import CACHE_BYTES
from troika.serving.client import MAX_SEED, Client, ModelInfo
from troika.serving.triton import TritonServer
from troika.serving.wire import inputs_and_outputs

AT_ONCE = 0.0
Protocol = Literal["grpc", "http"]


def url(server: TritonServer, protocol: Protocol) -> str:
    return f"127.0.0.1:{server.state.grpc_port if protocol == 'grpc' else server.state.http_port}"


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(server: TritonServer, protocol: Protocol) -> Iterator[Client]:
    with Client(url(server, protocol), protocol, model="tiny") as client:
        yield client


@pytest.fixture
def plain_client(unconditional_server: TritonServer, protocol: Protocol) -> Iterator[Client]:
    with Client(url(unconditional_server, protocol), protocol, model="plain") as client:
        yield client


def test_the_client_learns_what_the_model_is(client: Client, plain_client: Client) -> None:
    assert client.model == ModelInfo(
        "tiny", SHAPE, conditional=True, num_classes=10, latent_size=2, max_batch_size=64
    )
    assert plain_client.model == ModelInfo(
        "plain", SHAPE, conditional=False, num_classes=10, latent_size=2, max_batch_size=64
    )


def test_images_are_those_of_the_graph_and_name_the_bundle(client: Client, conditional_bundle: Bundle) -> None:
    got = client.generate(13, seed=7)
    assert got.images.dtype == np.uint8
    assert got.seeds.tolist() == list(range(7, 20))
    assert got.labels is not None
    assert got.labels.tolist() == [*range(10), 0, 1, 2]
    assert (got.images == expected_images(range(7, 20), got.labels.tolist())).all()
    assert got.model_digest == conditional_bundle.digest


def test_latents_can_be_given_in_place_of_seeds(client: Client, plain_client: Client) -> None:
    latents = [[3.7, 0.0], [-10.0, 10.0], [0.0, 0.0], [3.7, 0.0]]
    got = client.generate_from_latents(np.array(latents), labels=2)
    assert (got.images == expected_of_latents(latents)).all()
    assert got.seeds.tolist() == [-1] * 4
    assert got.labels is not None
    assert got.labels.tolist() == [2] * 4
    many = np.random.default_rng(0).uniform(-10, 10, (150, 2)).astype(np.float32)
    assert (plain_client.generate_from_latents(many).images == expected_of_latents(many.tolist())).all()


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        ([[0.0]], r"latents must have shape \(N, 2\), got \(1, 1\)"),
        ([0.0, 0.0], r"shape \(N, 2\), got \(2,\)"),
        ([], r"shape \(N, 2\), got \(0,\)"),
        ([[0.0, float("nan")]], r"latents must be numbers in -10\.\.10"),
        ([[0.0, 10.1]], r"latents must be numbers in -10\.\.10"),
        ([["a", "b"]], "latents must be numbers"),
    ],
)
def test_unusable_latents_are_named_before_anything_is_sent(client: Client, latents: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        client.generate_from_latents(latents)


def test_images_come_for_pillow_too(client: Client) -> None:
    got = client.generate(3)
    for image, picture in zip(got.images, got.to_pil(), strict=True):
        assert (np.asarray(picture) == image[:, :, 0]).all()


@pytest.mark.parametrize("wanted", [["png_base64"], None])
def test_png_can_be_asked_for_with_nothing_but_http_and_json(
    server: TritonServer, wanted: list[str] | None
) -> None:
    """As a shell does: curl, jq, base64. Without a list of outputs all come."""
    body: dict[str, Any] = {
        "inputs": [
            {"name": "seed", "datatype": "INT64", "shape": [2, 1], "data": [7, 8]},
            {"name": "label", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]},
        ]
    }
    if wanted:
        body["outputs"] = [{"name": name} for name in wanted]
    address = f"http://{url(server, 'http')}/v2/models/tiny/infer"
    with urllib.request.urlopen(address, json.dumps(body).encode()) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    for number, text in enumerate(outputs["png_base64"]):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        assert (picture == expected_images([7 + number], [1 + number])[0, :, :, 0]).all()
    if not wanted:
        assert outputs["seed_used"] == [7, 8]
        assert outputs["model_digest"] == [server.state.digest] * 2


def test_images_asked_for_again_are_not_made_again(tmp_path: Path) -> None:
    folder, made = unsealed(tmp_path / "bundle"), tmp_path / "made"
    code = folder / "model_repository" / "tiny" / "1" / "model.py"
    counted = f"""
def _counting(run):
    def counted(self, feed):
        with open({str(made)!r}, "a") as file:
            file.write(f"{{len(feed['seed'])}}\\n")
        return run(self, feed)
    return counted

_InProcess.run = _counting(_InProcess.run)
"""
    code.write_text(code.read_text() + counted)
    config = folder / "model_repository" / "tiny" / "config.pbtxt"
    few = SHAPE[0] * SHAPE[1] * 100  # room for 100 images
    text = config.read_text().replace("count: 2", "count: 1").replace(f'"{CACHE_BYTES}"', f'"{few}"')
    config.write_text(text)
    seal(folder, "tiny", tiny_spec(conditional=True), {})

    def rows() -> list[int]:
        return [int(line) for line in made.read_text().split()]

    with (
        TritonServer(folder, exit_seconds=AT_ONCE) as server,
        Client(url(server, "grpc"), model="tiny") as client,
    ):
        made.write_text("")
        first = client.generate(50, labels=1)
        assert (client.generate(30, seed=20, labels=1).images == first.images[20:]).all()
        assert rows() == [50]
        assert (client.generate(2, seed=0, labels=2).images == expected_images([0, 1], [2, 2])).all()
        assert rows() == [50, 2]
        same = np.zeros((40, 2))
        assert (client.generate_from_latents(same, labels=1).images == expected_of_latents(same.tolist())).all()
        assert rows() == [50, 2, 1]
        client.generate(60, seed=1000)  # Pushes the oldest out.
        assert (client.generate(50, labels=1).images == first.images).all()
        assert 0 < rows()[-1] <= 50


def test_an_unconditional_model_takes_seeds_only(plain_client: Client) -> None:
    got = plain_client.generate(3, seed=1)
    assert got.labels is None
    assert (got.images == expected_images([1, 2, 3], None)).all()
    with pytest.raises(RequestError, match="labels must be left out: plain is unconditional"):
        plain_client.generate(1, labels=1)


def test_both_protocols_give_the_same_images(server: TritonServer) -> None:
    with (
        Client(url(server, "grpc"), "grpc", model="tiny") as one,
        Client(f"http://{url(server, 'http')}/", "http", model="tiny") as other,
    ):
        assert (one.generate(70, seed=5).images == other.generate(70, seed=5).images).all()


def test_one_label_or_one_per_image_can_be_asked_for(client: Client) -> None:
    assert (client.generate(3, labels=4).images == expected_images([0, 1, 2], [4, 4, 4])).all()
    for labels in ([9, 0, 3], (9, 0, 3), np.array([9, 0, 3])):
        assert (client.generate(3, labels=labels).images == expected_images([0, 1, 2], [9, 0, 3])).all()


def test_more_images_than_a_batch_are_asked_for_in_parts(client: Client) -> None:
    assert client.model.max_batch_size == 64
    got = client.generate(150, seed=100)
    assert (got.images == expected_images(range(100, 250), [i % 10 for i in range(150)])).all()


def test_an_image_does_not_depend_on_its_company(client: Client) -> None:
    rows = [(seed, seed * 3 % 10) for seed in range(40)]
    alone = {row: client.generate(1, seed=row[0], labels=row[1]).images[0] for row in rows[::8]}
    random.Random(1).shuffle(rows)
    seeds, labels = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    together = client._infer({"seed": seeds[:, None], "label": labels[:, None]}).images
    for row, image in alone.items():
        assert (together[rows.index(row)] == image).all()
    assert (together == expected_images(seeds.tolist(), labels.tolist())).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count must be in 1"),
        ({"count": -1}, "count must be in 1"),
        ({"count": 2.5}, "count must be a whole number, got 2.5"),
        ({"count": True}, "count must be in 1.*got True"),
        ({"count": 1, "seed": -1}, "seed must be in 0"),
        ({"count": 1, "seed": 2**63}, "seed must be in 0"),
        ({"count": 2, "seed": MAX_SEED}, f"seed must be at most {MAX_SEED - 1} for 2 images"),
        ({"count": 1, "seed": "1"}, "seed must be a whole number"),
        ({"count": 1, "labels": 10}, r"labels must be in 0\.\.9, got 10"),
        ({"count": 1, "labels": -1}, r"labels must be in 0\.\.9, got -1"),
        ({"count": 2, "labels": [1, 99]}, r"labels must be in 0\.\.9, got 99"),
        ({"count": 2, "labels": [1]}, "got 1 for"),
        ({"count": 2, "labels": []}, "got 0 for"),
        ({"count": 1, "labels": 1.5}, "labels must be a whole number"),
        ({"count": 1, "labels": "7"}, "labels must be a whole number"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_sent(
    client: Client, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        client.generate(**arguments)


def test_the_last_seed_of_all_works(client: Client) -> None:
    assert (
        client.generate(2, seed=MAX_SEED - 1).images == expected_images([MAX_SEED - 1, MAX_SEED], [0, 1])
    ).all()


def ask_for(client: Client, rows: dict[str, list[Any]]) -> None:
    """Send rows as they are, which the client's own functions would refuse."""
    kinds = {"seed": np.int64, "label": np.int64, "latent": np.float32}
    arrays = {name: np.array(values, dtype=kinds[name]) for name, values in rows.items()}
    inputs, outputs = inputs_and_outputs(
        client._triton, {name: values.reshape(len(values), -1) for name, values in arrays.items()}
    )
    client._ask(lambda _: client._connection.infer(client.model.name, inputs, outputs=outputs))


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
    # Negative control: they did travel together.
    assert after.execution_count - before.execution_count <= 20
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
    really = client._connection.infer

    class Answer:
        """A fake of two servers behind one address."""

        def __init__(self, answer: Any) -> None:
            self._answer, self._digest = answer, f"sha256:{next(numbers)}".encode()

        def as_numpy(self, name: str) -> Any:
            return np.array([[self._digest]]) if name == "model_digest" else self._answer.as_numpy(name)

    monkeypatch.setattr(client._connection, "infer", lambda *given, **named: Answer(really(*given, **named)))
    assert client.generate(64).model_digest == "sha256:0"
    with pytest.raises(ServerError, match="changed its model"):
        client.generate(65)


@pytest.mark.parametrize(
    "address", ["", "localhost", "host:", ":8001", "host:port", "http://host:1/v2", "https://h:1"]
)
def test_an_unusable_address_is_named(address: str) -> None:
    with pytest.raises(RequestError, match=r"url .* is not usable: give host:port"):
        Client(address)


def test_other_arguments_of_the_client_are_checked(server: TritonServer) -> None:
    with pytest.raises(RequestError, match="give grpc or http"):
        Client("h:1", "smtp")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="timeout must be more than 0"):
        Client("h:1", timeout=0)
    with pytest.raises((RequestError, ServerError), match="other"):
        Client(url(server, "grpc"), model="other")
