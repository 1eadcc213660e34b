"""The digits as prepare_data leaves them, and the judge that params.yaml asks for: trained once."""

from pathlib import Path

import pytest
from quick import REPOSITORY

from components.evaluate import EvaluateParams
from components.prepare_data import PrepareDataParams, prepare_data
from components.step import read_sections
from troika.datasets.contract import Dataset
from troika.quality.evaluator import Evaluator, EvaluatorParams
from troika.quality.evaluator_training import train_evaluator
from troika.quality.real import RealSide


@pytest.fixture(scope="session")
def evaluate_params() -> EvaluateParams:
    return EvaluateParams.parse(read_sections(REPOSITORY / "params.yaml")["evaluate"], "params.yaml: evaluate")


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    section = read_sections(REPOSITORY / "params.yaml")["prepare_data"]
    folder: Path = tmp_path_factory.mktemp("prepared")
    params = PrepareDataParams.parse(section, "params.yaml: prepare_data")
    prepare_data(folder / "dataset", folder / "data.html", folder / "refused.json", params)
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="session")
def evaluator_params() -> EvaluatorParams:
    return EvaluatorParams.parse(read_sections(REPOSITORY / "params.yaml")["train_evaluator"], "params.yaml")


@pytest.fixture(scope="session")
def evaluator(prepared_digits: Dataset, evaluator_params: EvaluatorParams) -> Evaluator:
    info = prepared_digits.info
    return train_evaluator(prepared_digits.train, info.shape, len(info.classes), evaluator_params)


@pytest.fixture(scope="session")
def real_side(prepared_digits: Dataset, evaluator: Evaluator, evaluate_params: EvaluateParams) -> RealSide:
    samples = evaluate_params.samples
    return RealSide(prepared_digits, evaluator, samples.batch_size, samples.real)
