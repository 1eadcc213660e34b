"""One tiny model on its way through the steps; a test that changes a folder copies it first."""

import pytest
from tiny_steps import Paths, tiny_params

from components.evaluate import evaluate
from components.export_model import export_model
from components.prepare_data import prepare_data
from components.train import train
from components.train_evaluator import train_evaluator


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A conditional model, trained, exported and judged with limits that any model keeps."""
    paths = Paths(tmp_path_factory.mktemp("made"))
    report, refused, metrics = (paths.folder / name for name in ("data.html", "refused.json", "metrics.json"))
    prepare_data(paths.dataset, report, refused, tiny_params("prepare_data"))
    train(paths.dataset, paths.checkpoint, paths.history, tiny_params("train"))
    export_model(paths.checkpoint, paths.bundle, tiny_params("export_model"))
    train_evaluator(paths.dataset, paths.evaluator, tiny_params("train_evaluator"))
    paths.champion.write_text('{"environment": "local"}')
    evaluate(
        paths.bundle,
        paths.dataset,
        paths.evaluator,
        paths.champion,
        paths.verdict,
        paths.reference,
        paths.folder / "evaluation.html",
        metrics,
        tiny_params("evaluate"),
    )
    return paths


@pytest.fixture(scope="session")
def unconditional(made: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The MLP preset on the same dataset, trained and exported."""
    paths = Paths(tmp_path_factory.mktemp("unconditional"))
    train(made.dataset, paths.checkpoint, paths.history, tiny_params("train", preset="article", steps=5))
    export_model(paths.checkpoint, paths.bundle, tiny_params("export_model"))
    return paths
