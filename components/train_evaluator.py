"""Train the evaluator: a dataset -> the small classifier whose features and labels judge generated images.

One file, so that the same evaluator judges champion and challenger, told apart from any other by its digest.
"""

from pathlib import Path

from components.step import run_step
from troika.datasets.contract import Dataset
from troika.folders import write_atomic
from troika.quality.evaluator import EvaluatorFacts, EvaluatorParams


def train_evaluator(dataset: Path, evaluator: Path, params: EvaluatorParams) -> str:
    """Train on the training split, and note how well it does on held-out images.

    Args:
        dataset: folder that prepare_data wrote.
        evaluator: ONNX file to write; its metadata says which dataset and parameters it was made from.
        params: section `train_evaluator`.

    Returns:
        The file's digest, `sha256:<hex>`.

    Raises:
        DatasetError: no dataset there, or it has been changed.
    """
    from troika.quality import evaluator_training  # noqa: PLC0415 - imports PyTorch

    data = Dataset.open(dataset)
    trained = evaluator_training.train_evaluator(data.train, data.info.shape, len(data.info.classes), params)
    facts = EvaluatorFacts(
        dataset_content_hash=data.info.content_hash,
        task=trained.task,
        accuracy=trained.accuracy(data.held_out),
        held_out=len(data.held_out),
        params=params,
    )
    finished = evaluator_training.with_facts(trained, facts)
    write_atomic(evaluator, finished.onnx)
    told = "the class" if facts.task == "classes" else "the turn"
    print(f"evaluator: tells {told} of {facts.accuracy:.2%} of {facts.held_out} held-out images")
    print(f"  {finished.digest}")
    return finished.digest


if __name__ == "__main__":
    run_step(train_evaluator)
