"""What a training leaves to look at: TensorBoard's files read back."""

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from troika.models.contract import Progress
from troika.models.training_log import TrainingLog


def progress(step: int, *, tick: bool = False, **changes: float) -> Progress:
    figures = {
        "generator_loss": 0.5 + step, "discriminator_loss": 0.25, "penalty_r1": 0.125, "penalty_wgan_gp": 2.0,
        "penalty_gamma": 1.0, "generator_gradient_norm": 3.0, "learning_rate": 0.004, "average_decay": 0.9,
        "score_real": 1.5,
    }  # fmt: skip
    samples = None
    if tick:
        figures |= {"variety": 0.8, "validation_distance": 0.1}
        samples = np.arange(20 * 64, dtype=np.uint32).reshape(20, 8, 8, 1).astype(np.uint8)
    return Progress(step, 300, 1000.0 + step, figures | changes, samples)


def events(folder: Path) -> Iterator[Event]:
    """Records of TensorBoard's files: length, check sum, event, check sum."""
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    found = {}
    for event in events(folder):
        # A reader drops what came before a restart from that step on.
        if event.HasField("session_log"):
            found = {key: value for key, value in found.items() if key[1] < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboards_files_hold_every_figure_in_its_group_and_the_sample_grid(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, "r3gan", {}) as log:
        log.add(progress(50))
        log.add(progress(100, tick=True))
    found = scalars(tmp_path)
    assert {tag for tag, step in found if step == 100} == {
        "losses/generator_loss", "losses/discriminator_loss", "penalties/penalty_r1", "penalties/penalty_wgan_gp",
        "schedules/penalty_gamma", "schedules/learning_rate", "schedules/average_decay",
        "gradient_norms/generator_gradient_norm", "training/score_real", "training/images_per_second",
        "samples/variety", "samples/validation_distance",
    }  # fmt: skip
    assert found["losses/generator_loss", 50] == 50.5
    assert found["training/images_per_second", 100] == 1100.0
    assert ("samples/variety", 50) not in found
    pictures = [
        (event.step, value.tag, Image.open(io.BytesIO(value.image.encoded_image_string)))
        for event in events(tmp_path)
        for value in event.summary.value
        if value.HasField("image")
    ]
    ((step, tag, picture),) = pictures
    assert (step, tag) == (100, "samples")
    with Image.open(tmp_path / "samples" / "step_000000100.png") as saved:
        assert np.array_equal(np.asarray(picture.convert("L")), np.asarray(saved.convert("L")))


def test_a_resumed_training_writes_its_steps_once(tmp_path: Path) -> None:
    """Of steps after the last saved state, what the killed run has written is replaced."""
    with TrainingLog(tmp_path, "r3gan", {}) as log:
        for step in (50, 100, 150):
            log.add(progress(step))
    with TrainingLog(tmp_path, "r3gan", {}) as log:
        for step in (100, 150, 200):
            log.add(progress(step, generator_loss=7.0))
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [(line["step"], line["generator_loss"]) for line in lines] == [(50, 50.5), (100, 7), (150, 7), (200, 7)]
    losses = {step: value for (tag, step), value in scalars(tmp_path).items() if tag == "losses/generator_loss"}
    assert losses == {50: 50.5, 100: 7, 150: 7, 200: 7}
