"""The steps with the TensorFlow twin: the same files, the same kind of bundle, and the framework's name in it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_steps import Paths, tiny_params

from components.export_model import export_model
from components.train import train
from troika.errors import ParameterError
from troika.onnx_session import open_session, run_generator
from troika.releases.bundle import Bundle


def test_a_bundle_made_by_tensorflow_is_like_one_made_by_pytorch(made: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    params = tiny_params("train", framework="tensorflow")
    train(made.dataset, paths.checkpoint, paths.history, params, log=tmp_path / "log", report=tmp_path / "page")
    export_model(paths.checkpoint, paths.bundle, tiny_params("export_model"))

    bundle, other = Bundle.open(paths.bundle), Bundle.open(made.bundle)
    assert bundle.spec == other.spec | {"framework": "tensorflow"}
    assert {path.relative_to(paths.bundle) for path in paths.bundle.rglob("*")} == {
        path.relative_to(made.bundle) for path in made.bundle.rglob("*")
    }
    session, reference = open_session(bundle.graph), open_session(other.graph)
    for side in ("get_inputs", "get_outputs"):
        described = [
            [(value.name, value.type, value.shape) for value in getattr(one, side)()]
            for one in (session, reference)
        ]
        assert described[0] == described[1]
    with np.load(paths.bundle / "golden.npz") as golden:
        found = run_generator(session, golden["seed"][:, 0], golden["label"][:, 0])
        assert np.array_equal(found, golden["image"])
        assert found.std() > 0
    card = (paths.bundle / "model_card.md").read_text()
    assert "gan / tensorflow / r3gan" in card
    assert "tensorflow-cpu 2." in card


def test_several_processes_are_refused_before_any_is_started(made: Paths, tmp_path: Path) -> None:
    params = tiny_params("train", framework="tensorflow", processes=2)
    with pytest.raises(ParameterError, match="processes: tensorflow trains in one process; say 1 or auto"):
        train(made.dataset, tmp_path / "c", tmp_path / "h", params)
    assert not list(tmp_path.iterdir())
