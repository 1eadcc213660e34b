"""What a client gets from a real Triton: the right images by both protocols; its arguments are checked."""

import asyncio
import io
import json
import random
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_address import Protocol, url
from PIL import Image
from tiny_bundle import (
    NAMES,
    SHAPE,
    expected_images,
    expected_of_latents,
    tiny_bundle,
    tiny_spec,
    unsealed,
)

from troika.errors import RequestError, ServerError
from troika.releases.bundle import Bundle, seal
from troika.releases.triton_config import CACHE_BYTES
from troika.serving.async_client import AsyncClient
from troika.serving.client import MAX_SEED, Client, ModelInfo
from troika.serving.triton import TritonServer
from troika.serving.wire import read_model_info

AT_ONCE = 0.0


def test_the_client_learns_what_the_model_is(client: Client, plain_client: Client) -> None:
    assert client.model == ModelInfo(
        "tiny", SHAPE, conditional=True, num_classes=10, latent_size=2, max_batch_size=64, classes=NAMES
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


HARD_NAMES = ("cat", "a dog", 'the "owl"', "back\\slash", "größe", "猫", "new\nline", "10", "7", "{}'$")


def test_classes_are_asked_for_by_name(tmp_path: Path, protocol: Protocol) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", classes=HARD_NAMES)
    with TritonServer(bundle.folder, exit_seconds=AT_ONCE) as server:
        with Client(url(server, protocol), protocol, model="tiny") as client:
            assert client.model.classes == HARD_NAMES
            for number, name in enumerate(HARD_NAMES):
                assert (client.generate(2, labels=name).images == expected_images([0, 1], [number] * 2)).all()
            mixed = client.generate(3, labels=["猫", 0, "7"])
            assert mixed.labels is not None
            assert mixed.labels.tolist() == [5, 0, 8], "a name that is a number is a name"
            assert client.generate(2, labels=np.array(["cat", "10"])).images.shape == (2, *SHAPE)
            with pytest.raises(RequestError, match="labels: tiny has no class 'Cat'; it has 'cat', 'a dog',"):
                client.generate(1, labels="Cat")
        address = f"http://{url(server, 'http')}/v2/models/tiny/config"
        with urllib.request.urlopen(address) as answer:
            config = json.load(answer)
    assert json.loads(config["parameters"]["classes"]["string_value"]) == list(HARD_NAMES)


async def _asked_of_the_asyncio_client(server: TritonServer, protocol: Protocol) -> Any:
    async with AsyncClient(url(server, protocol), protocol, model="tiny") as client:
        return await client.generate(2, labels=["3", "9"])


def test_the_asyncio_client_takes_names_too(server: TritonServer, protocol: Protocol) -> None:
    assert asyncio.run(_asked_of_the_asyncio_client(server, protocol)).labels.tolist() == [3, 9]


def test_a_model_without_labels_has_no_classes(plain_client: Client) -> None:
    with pytest.raises(RequestError, match="labels must be left out: plain is unconditional"):
        plain_client.generate(1, labels="3")


def test_a_bundle_older_than_class_names_has_numbers() -> None:
    config = {
        "parameters": {"conditional": {"string_value": "true"}, "num_classes": {"string_value": "3"}},
        "input": [{"name": "latent", "dims": ["2"]}],
        "output": [{"name": "image", "dims": ["4", "3", "1"]}],
        "max_batch_size": 8,
    }
    assert read_model_info("old", config, "here").classes == ("0", "1", "2")
    config["parameters"]["classes"] = {"string_value": '["a", "b"]'}
    with pytest.raises(ServerError, match="2 class names for 3 classes"):
        read_model_info("old", config, "here")


def test_many_threads_may_use_one_client_at_once(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        for seed, got in enumerate(pool.map(lambda seed: client.generate(3, seed=seed), range(200))):
            assert (got.images == expected_images(range(seed, seed + 3), [0, 1, 2])).all()


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


@pytest.mark.parametrize("wanted", [["png", "png_size"], ["png"], None])
def test_png_can_be_asked_for_with_nothing_but_http_and_json(
    server: TritonServer, wanted: list[str] | None
) -> None:
    """As a shell does, with curl and jq. Without a list of outputs all come."""
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
    files = bytes(outputs["png"])
    longest = len(files) // 2
    for number in range(2):
        file = files[number * longest : (number + 1) * longest]
        picture = np.asarray(Image.open(io.BytesIO(file)))
        assert (picture == expected_images([7 + number], [1 + number])[0, :, :, 0]).all()
        if "png_size" in outputs:
            assert file[: outputs["png_size"][number]].endswith(b"IEND\xaeB`\x82")
            assert not file[outputs["png_size"][number] :].strip(b"\0")
    if not wanted:
        assert outputs["seed_used"] == [7, 8]
        assert f"sha256:{bytes(outputs['model_digest'][:32]).hex()}" == server.state.digest
        assert outputs["model_digest"][:32] == outputs["model_digest"][32:]


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
        ({"count": 1, "labels": "12"}, "labels: tiny has no class '12'"),
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


UNUSABLE = ["", "localhost", "host:", ":8001", "host:port", "http://host:1/v2", "https://h:1", "unix:/run/x"]
UNUSABLE += ["a b:1", "host:0", "host:65536", "host:²", "[::1]", "[host]:1", "[::1:1"]


@pytest.mark.parametrize("address", UNUSABLE)
def test_an_unusable_address_is_named(address: str) -> None:
    with pytest.raises(
        RequestError, match=r"url.* is not usable: (give host:port|its port must be in 1\.\.65535)"
    ):
        Client(address)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        Client("http://me:secret@host:8001")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["::1:8001", "::1", "2001:db8::7:8001", "http://::1:8001"])
def test_an_ipv6_address_without_brackets_is_told_how_it_is_written(address: str) -> None:
    with pytest.raises(RequestError, match=r"an IPv6 address stands in brackets before its port"):
        Client(address)


def test_other_arguments_of_the_client_are_checked(server: TritonServer) -> None:
    with pytest.raises(RequestError, match="give grpc or http"):
        Client("h:1", "smtp")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="timeout must be more than 0"):
        Client("h:1", timeout=0)
    with pytest.raises((RequestError, ServerError), match="other"):
        Client(url(server, "grpc"), model="other")
