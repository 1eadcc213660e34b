"""Bundles whose model takes its time, and writes down what it was given."""

from collections.abc import Mapping
from pathlib import Path

from tiny_bundle import tiny_spec, unsealed

from troika.releases.bundle import seal

_SLOW = """
import time
_quick = TritonPythonModel.execute

def _slow(self, requests):
    with open({record!r}, "a") as file:
        for request in requests:
            for seed in pb_utils.get_input_tensor_by_name(request, "seed").as_numpy().ravel():
                file.write(f"{{seed}}\\n")
    time.sleep({seconds})
    return _quick(self, requests)

TritonPythonModel.execute = _slow
"""


def slow_bundle(folder: Path, seconds: float, record: Path, changes: Mapping[str, str]) -> Path:
    """Answers one request at a time; `changes` are made in the text of config.pbtxt."""
    unsealed(folder)
    entry = folder / "model_repository" / "tiny"
    code, config = entry / "1" / "model.py", entry / "config.pbtxt"
    code.write_text(code.read_text() + _SLOW.format(seconds=seconds, record=str(record)))
    text = config.read_text()
    one_at_a_time = {
        "max_batch_size: 64": "max_batch_size: 1",
        "batch_size: 64": "batch_size: 1",
        "count: 2": "count: 1",
    }
    for old, new in {**one_at_a_time, **changes}.items():
        assert old in text, old
        text = text.replace(old, new)
    config.write_text(text)
    seal(folder, "tiny", tiny_spec(conditional=True), {})
    return folder


def recorded(record: Path) -> list[int]:
    """Seeds that the model was given, less those of the warm-up."""
    return [seed for seed in map(int, record.read_text().split()) if seed]
