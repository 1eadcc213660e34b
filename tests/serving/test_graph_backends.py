"""The same bundle with its graph on Triton's onnxruntime backend, a fake here: same names, same answers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import expected_images, expected_of_latents

from troika.errors import ParameterError, RequestError
from troika.releases.bundle import Bundle
from troika.releases.triton_config import BACKENDS
from troika.serving.client import Client
from troika.serving.triton import TritonServer
from troika.serving.triton_process import find_installation


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("installation")
    find_installation().command(work)
    # Files instead of links: a backend written in Python may not lead out of its folder.
    shutil.copytree(work / "backends", work / "copied")
    (work / "copied" / "onnxruntime").mkdir()
    shutil.copy(Path(__file__).with_name("fake_onnxruntime_backend.py"), work / "copied/onnxruntime/model.py")
    return work / "copied"


@pytest.fixture(scope="module")
def served(conditional_bundle: Bundle, backends: Path) -> Iterator[TritonServer]:
    options = (f"--backend-directory={backends}",)
    with TritonServer(
        conditional_bundle.folder, graph_backend="onnxruntime", arguments=options, exit_seconds=0
    ) as server:
        yield server


def test_answers_are_those_of_the_graph_in_process(served: TritonServer, conditional_bundle: Bundle) -> None:
    with Client(f"127.0.0.1:{served.state.grpc_port}", model="tiny") as client:
        got = client.generate(150, seed=3)
        assert (got.images == expected_images(range(3, 153), [i % 10 for i in range(150)])).all()
        assert got.model_digest == conditional_bundle.digest
        by_latent = client.generate_from_latents(np.array([[5.0, 0.0], [9.0, 0.0]]))
        assert (by_latent.images == expected_of_latents([[5.0, 0.0], [9.0, 0.0]])).all()
        with pytest.raises(RequestError, match="labels must be in"):
            client.generate(1, labels=10)


def test_the_graph_itself_is_there_and_ready(served: TritonServer) -> None:
    """The control: without it the test above could have been answered in process."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{served.state.http_port}/v2/models/tiny_graph/ready") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_configuration_for_production_is_one_that_triton_reads(
    conditional_bundle: Bundle, backend: str
) -> None:
    """As far as a Triton without GPU can tell: the text is a valid model configuration with the same interface."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    def read(repository: str, model: str, name: str) -> ModelConfig:
        folder = conditional_bundle.folder / repository / model
        path = folder / "configs" / f"{name}.pbtxt"
        chosen = path if path.exists() else folder / "config.pbtxt"
        return text_format.Parse(chosen.read_text(), ModelConfig())

    plain, front = read("model_repository", "tiny", "none"), read("model_repository", "tiny", backend)
    graph = read("graph_repository", "tiny_graph", backend)
    assert (front.name, front.input, front.output) == (plain.name, plain.input, plain.output)
    assert front.parameters["graph_model"].string_value == graph.name
    assert {entry.name for entry in graph.input} == {entry.name for entry in front.input}
    assert graph.max_batch_size == front.max_batch_size
    assert graph.instance_group[0].kind == {"onnxruntime": 2, "cuda": 1, "tensorrt": 1}[backend]
    accelerators = graph.optimization.execution_accelerators.gpu_execution_accelerator
    assert [entry.name for entry in accelerators] == (["tensorrt"] if backend == "tensorrt" else [])


def test_an_unknown_backend_is_named(conditional_bundle: Bundle) -> None:
    with pytest.raises(ParameterError, match="graph_backend must be one of onnxruntime, cuda, tensorrt"):
        TritonServer(conditional_bundle.folder, graph_backend="openvino")
