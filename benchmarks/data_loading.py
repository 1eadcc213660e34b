"""For benchmarks/data.py: read a dataset as training does, and train on it."""

from collections.abc import Callable
from pathlib import Path

_BATCH = 128
_PASSES, _STEPS = 3, 30


def reader(folder: Path) -> Callable[[], int]:
    """Passes over the training split in shuffled batches, float32 on the device, from disk batch by batch."""
    import torch

    from troika.datasets.contract import Dataset
    from troika.models.gan import pytorch_data
    from troika.models.gan.batches import Order
    from troika.models.gan.pytorch_inputs import Inputs

    train = Dataset.open(folder).train
    pytorch_data._ON_CPU = 0  # as if it were larger than the memory that training may take for it
    feed = pytorch_data.Feed(train, torch.device("cpu"), torch.contiguous_format)
    inputs = Inputs(torch.device("cpu"), feed.fields(_BATCH))
    order = Order(len(train), _BATCH, seed=0)

    def work() -> int:
        steps = _PASSES * len(train) // _BATCH
        feed.announce(order(0))
        for step in range(steps):
            now = order(step)
            inputs.put(**feed.arrays(now))
            feed.batch(inputs)
            feed.announce(order(step + 1))
        feed.close()
        return steps * _BATCH

    return work


def trainer(folder: Path) -> Callable[[], int]:
    """Steps of the default preset, by the step `train` itself: opening and saving count, too."""
    import tempfile

    from components.step import read_sections, resolve_params
    from components.train import train

    params = resolve_params(train, read_sections(Path("params.yaml"))["train"], {"steps": _STEPS})

    def work() -> int:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch)
            train(folder, out / "checkpoint", out / "history.jsonl", params)
        return _STEPS * int(params.batch_size)

    return work
