"""Start TensorFlow as Troika uses it: few threads, no chatter, Keras on TensorFlow, repeatable kernels.

To be imported before TensorFlow is. Importing it imports TensorFlow and Keras, which takes seconds.
"""

import logging
import os

# TensorFlow's own lines on which processor features it found, and Keras's choice, are read when they are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf

from troika.errors import ParameterError
from troika.threads import cpu_threads

_log = logging.getLogger(__name__)


def start() -> None:
    """Hold TensorFlow to `cpu_threads()` threads; to be called before its first computation.

    TensorFlow cannot change the number later. If something else in this process has started it with another one, a
    warning says so: results may then differ from those of other runs in their last bits.

    Raises:
        ParameterError: Keras has been told to run on something else.
    """
    if keras.backend.backend() != "tensorflow":
        raise ParameterError(
            f"KERAS_BACKEND: {keras.backend.backend()}; framework tensorflow needs it unset, or tensorflow"
        )
    tf.get_logger().setLevel("ERROR")
    threads = cpu_threads()
    settings = tf.config.threading
    if settings.get_intra_op_parallelism_threads() == threads:
        return
    try:
        settings.set_intra_op_parallelism_threads(threads)
        settings.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        _log.warning("TensorFlow was started with another number of threads; results may not repeat exactly")


def choose_device(wanted: str) -> str:
    """`/CPU:0` or `/GPU:0`, for `auto`, `cpu` or `cuda`.

    Raises:
        ParameterError: `cuda`, and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "cuda" and not gpus:
        raise ParameterError("device: cuda is asked for, but TensorFlow finds no GPU here; say auto or cpu")
    return "/CPU:0" if wanted == "cpu" or not gpus else "/GPU:0"
