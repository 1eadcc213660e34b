"""A bundle whose model answers one request at a time, takes its time, and can be held by the test."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tiny_bundle import tiny_spec, unsealed

from troika.releases.bundle import seal

_SLOW = """
import os
import time
_quick = TritonPythonModel.execute

def _slow(self, requests):
    with open({begun!r}, "a") as file:
        for request in requests:
            for seed in pb_utils.get_input_tensor_by_name(request, "seed").as_numpy().ravel():
                file.write(f"{{seed}}\\n")
    time.sleep({seconds})
    while os.path.exists({held!r}):
        time.sleep(0.005)
    return _quick(self, requests)

TritonPythonModel.execute = _slow
"""


@dataclass(frozen=True)
class SlowModel:
    """Where the bundle is, and what the test and its model tell each other by."""

    bundle: Path
    _begun: Path
    _held: Path

    def begun(self) -> list[int]:
        """Seeds that the model has begun with, less those of the warm-up."""
        return [seed for seed in map(int, self._begun.read_text().split()) if seed]

    @contextmanager
    def held(self) -> Iterator[None]:
        """No answer leaves the model while this is open, however slow the machine is."""
        self._held.touch()
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Let the model answer again."""
        self._held.unlink(missing_ok=True)


def slow_model(folder: Path, seconds: float, changes: Mapping[str, str]) -> SlowModel:
    """Each request takes at least `seconds`; `changes` are made in the text of config.pbtxt."""
    model = SlowModel(folder / "bundle", folder / "begun", folder / "held")
    unsealed(model.bundle)
    entry = model.bundle / "model_repository" / "tiny"
    code, config = entry / "1" / "model.py", entry / "config.pbtxt"
    places = {"begun": str(model._begun), "held": str(model._held)}
    code.write_text(code.read_text() + _SLOW.format(seconds=seconds, **places))
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
    seal(model.bundle, "tiny", tiny_spec(conditional=True), {})
    return model
