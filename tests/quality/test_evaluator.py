"""The evaluator knows real digits, is the same each time, and sees an image alike in any company."""

import numpy as np
import onnx
import pytest
import torch

from troika.datasets.contract import Dataset, Split
from troika.onnx_session import open_session
from troika.quality.evaluator import Evaluator, EvaluatorParams, turned
from troika.quality.evaluator_training import train_evaluator

BRIEF = EvaluatorParams(steps=38, batch_size=64, learning_rate=2.0e-3, features=16, seed=0)


def train_briefly(dataset: Dataset, **changes: int) -> Evaluator:
    params = BRIEF.model_copy(update=changes)
    return train_evaluator(dataset.train, dataset.info.shape, len(dataset.info.classes), params)


def test_it_knows_digits_that_it_has_not_seen(evaluator: Evaluator, prepared_digits: Dataset) -> None:
    _, classes = evaluator.look_at(prepared_digits.held_out.images)
    assert (classes == prepared_digits.held_out.labels).mean() >= 0.97


def test_it_depends_on_data_and_parameters_alone(prepared_digits: Dataset) -> None:
    first = train_briefly(prepared_digits)
    torch.rand(7)  # whatever state the caller's generator is in
    again = train_briefly(prepared_digits)
    assert again.onnx == first.onnx
    assert again.digest == first.digest
    assert len({first.digest, train_briefly(prepared_digits, seed=1).digest}) == 2
    # Nor on where the code lies, which PyTorch's exporter writes beside every node.
    assert b"evaluator_training.py" not in first.onnx


def test_training_leaves_the_callers_random_state_and_threads_alone(prepared_digits: Dataset) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train_briefly(prepared_digits)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_it_sees_an_image_alike_in_any_company(
    evaluator: Evaluator, prepared_digits: Dataset, evaluator_params: EvaluatorParams
) -> None:
    images = prepared_digits.train.images  # more than one of its own batches
    features, classes = evaluator.look_at(images)
    assert features.shape == (len(images), evaluator_params.features)
    assert features.dtype == np.float32
    assert (classes.shape, classes.dtype) == ((len(images),), np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled, shuffled_classes = evaluator.look_at(images[order])
    np.testing.assert_allclose(shuffled, features[order], rtol=1e-4, atol=1e-4)
    assert np.array_equal(shuffled_classes, classes[order])
    for index in (0, 1, 1100):
        alone, alone_class = evaluator.look_at(images[index : index + 1])
        np.testing.assert_allclose(alone[0], features[index], rtol=1e-4, atol=1e-4)
        assert alone_class[0] == classes[index]


def test_it_is_a_graph_that_needs_no_training_framework(evaluator: Evaluator) -> None:
    model = onnx.load_from_string(evaluator.onnx)
    onnx.checker.check_model(model)
    assert {domain.domain for domain in model.opset_import} == {""}
    session = open_session(evaluator.onnx)
    assert [entry.name for entry in session.get_inputs()] == ["image"]
    assert [entry.name for entry in session.get_outputs()] == ["features", "logits"]


def test_it_can_be_trained_on_other_shapes() -> None:
    rng = np.random.default_rng(0)
    for shape in [(28, 28, 1), (9, 13, 3)]:
        images = rng.integers(0, 256, (20, *shape), dtype=np.uint8)
        trained = train_evaluator(Split(images, np.arange(20) % 4), shape, 4, BRIEF)
        features, classes = trained.look_at(images)
        assert features.shape == (20, 16)
        assert classes.max() < 4


def test_accuracy_is_the_share_told_right(evaluator: Evaluator, prepared_digits: Dataset) -> None:
    held_out = prepared_digits.held_out
    _, classes = evaluator.look_at(held_out.images)
    assert evaluator.task == "classes"
    assert evaluator.accuracy(held_out) == pytest.approx((classes == held_out.labels).mean())
    assert evaluator.accuracy(Split(held_out.images, classes)) == 1
    assert evaluator.accuracy(Split(held_out.images, (classes + 1) % 10)) == 0


@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 7, 3)])
def test_turns_are_four_different_images_of_the_same_shape(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    turns = [turned(images, turn) for turn in range(4)]
    assert all(found.shape == images.shape for found in turns)
    assert np.array_equal(turns[0], images)
    assert all(not np.array_equal(turns[a], turns[b]) for a in range(4) for b in range(a))
    twice = turned(turned(images, 2), 2)
    assert np.array_equal(twice, images)


def test_one_class_gives_one_logit_and_features_all_the_same(prepared_digits: Dataset) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 5, 7, 3), dtype=np.uint8)
    trained = train_evaluator(Split(images, np.zeros(30, np.int64)), (5, 7, 3), 1, BRIEF)
    assert trained.task == "turns"
    features, classes = trained.look_at(images)
    assert features.std() > 0
    assert not classes.any()
    assert 0 <= trained.accuracy(Split(images, classes)) <= 1
