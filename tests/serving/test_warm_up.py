"""A model is warm when it is ready: its graph has run a whole batch. Triton itself is a fake here."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format, text_format
from tiny_bundle import expected_images
from tritonclient.grpc import model_config_pb2

from troika.releases.bundle import Bundle


class FakeMetricFamily:
    """The part of Triton's own that a model asks for before it is ready."""

    COUNTER = "counter"

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert (name, kind) == ("troika_model_refused_total", self.COUNTER)

    def Metric(self, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802 - Triton's name
        return SimpleNamespace(labels=labels)


FAKE_TRITON = SimpleNamespace(MetricFamily=FakeMetricFamily)  # with nothing to ask another model by


def test_the_largest_batch_has_run_before_anybody_asks(
    conditional_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    run = onnxruntime.InferenceSession.run

    def count(session: Any, names: list[str], feed: dict[str, Any]) -> Any:
        images = run(session, names, feed)
        ran.append((feed, images[0]))
        return images

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", count)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", FAKE_TRITON)
    (folder,) = (conditional_bundle.folder / "model_repository").iterdir()
    config = read_config(folder / "config.pbtxt")
    fake_initialize(folder, config)

    ((feed, images),) = ran
    assert len(np.unique(feed["seed"])) == len(images) == config["max_batch_size"] > 1
    assert (images == expected_images(feed["seed"][:, 0].tolist(), [0] * len(images))).all()


def test_another_model_is_not_asked_before_triton_is_ready(
    conditional_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", FAKE_TRITON)
    (folder,) = (conditional_bundle.folder / "model_repository").iterdir()
    config = read_config(folder / "configs" / "onnxruntime.pbtxt")
    assert "graph_model" in config["parameters"]
    fake_initialize(folder, config)


def read_config(path: Path) -> dict[str, Any]:
    read = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    return json_format.MessageToDict(read, preserving_proto_field_name=True)


def fake_initialize(folder: Path, config: dict[str, Any]) -> None:
    """What Triton does with a model before it calls it ready."""
    model = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
    arguments = {"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"}
    model.initialize(arguments)
