"""GANs in TensorFlow and Keras behind the model contract: the twin of pytorch_gan.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from troika import tensorflow_runtime as runtime  # first: it decides how TensorFlow starts

import tensorflow as tf  # isort: skip

from troika.datasets.contract import Dataset
from troika.models.contract import Labels, Latents, Machine, ModelSpec, Schedule
from troika.models.gan.backend import Backend
from troika.models.gan.folding import fold_batch_norms
from troika.models.gan.layers import Weights
from troika.models.gan.model import GAN, Choice
from troika.models.gan.networks import plan_generator
from troika.models.gan.settings import GANSettings
from troika.models.gan.tensorflow_backend import TensorFlowBackend
from troika.models.gan.tensorflow_networks import Network
from troika.tensorflow_onnx import to_onnx

_XLA_FROM_STEPS = 2000


class TensorFlowGAN(GAN):
    """See GAN. Trains in one process on one device."""

    framework: ClassVar[str] = "tensorflow"

    def __init__(self, spec: ModelSpec, settings: GANSettings, weights: Weights) -> None:
        super().__init__(spec, settings, weights)
        runtime.start()
        inputs = spec.latent_size + (spec.num_classes if spec.conditional else 0)
        self._generator = Network(plan_generator(settings, spec), (inputs,))
        self._generator.set_weights(weights)
        specs = [tf.TensorSpec((None, *shape), dtype) for dtype, shape in self._inputs().values()]
        self._sampling = tf.function(self._draw, input_signature=specs)

    @classmethod
    def choose(cls, dataset: Dataset, schedule: Schedule, machine: Machine) -> Choice:
        """See GAN. Images stay where they are; a batch is sent at every step."""
        runtime.start()
        device = runtime.choose_device(machine.device)
        batch = schedule.batch_size * int(np.prod(dataset.info.shape))
        return Choice(
            "cpu" if device == "/CPU:0" else "cuda",
            choose_precision(machine.precision, device),
            choose_xla(machine.compile, schedule.steps),
            batch,
        )

    @classmethod
    @contextmanager
    def open_backend(
        cls, dataset: Dataset, spec: ModelSpec, settings: GANSettings, schedule: Schedule, machine: Machine
    ) -> Iterator[Backend]:
        """See GAN."""
        runtime.start()
        device = runtime.choose_device(machine.device)
        policy = "mixed_bfloat16" if choose_precision(machine.precision, device) == "bfloat16" else "float32"
        xla = choose_xla(machine.compile, schedule.steps)
        with tf.device(device):
            yield TensorFlowBackend(dataset, spec, settings, schedule, policy, xla=xla)

    def generate(self, latents: Latents, labels: Labels | None) -> NDArray[np.float32]:
        """See GAN."""
        given = [tf.constant(latents)] if labels is None else [tf.constant(latents), tf.constant(labels, tf.int64)]
        images: NDArray[np.float32] = self._sampling(*given).numpy()
        return images

    def export_core(self, path: Path) -> None:
        """See the contract."""
        layers, weights = fold_batch_norms(plan_generator(self.settings, self.spec), self.weights)
        folded = Network(layers, self._generator.input_shape)
        folded.set_weights(weights)
        path.write_bytes(to_onnx(partial(self._draw, network=folded), self._inputs(), "image_float"))

    def _inputs(self) -> dict[str, tuple[tf.DType, tuple[int, ...]]]:
        """Those of `_draw`: name -> type and shape of one."""
        inputs: dict[str, tuple[tf.DType, tuple[int, ...]]] = {"latent": (tf.float32, (self.spec.latent_size,))}
        if self.spec.conditional:
            inputs["label"] = (tf.int64, ())
        return inputs

    def _draw(
        self, latents: tf.Tensor, labels: tf.Tensor | None = None, network: Network | None = None
    ) -> tf.Tensor:
        if labels is not None:
            one_hot = tf.one_hot(labels, self.spec.num_classes)
            latents = tf.concat([latents, self.settings.label_scale * one_hot], 1)
        return (network or self._generator)(latents, training=False)


def choose_precision(wanted: str, device: str) -> str:
    """`auto`: bfloat16 on a GPU that computes in it, else float32."""
    if wanted != "auto":
        return wanted
    if device == "/CPU:0":
        return "float32"
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return "bfloat16" if details.get("compute_capability", (0, 0)) >= (8, 0) else "float32"


def choose_xla(wanted: str, steps: int) -> bool:
    """`auto`: for long trainings; compiling takes 5 to 20 s, and then makes a step up to 1.6 times as fast."""
    return wanted == "on" or (wanted == "auto" and steps >= _XLA_FROM_STEPS)
