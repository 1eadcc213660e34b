"""What a training would need, without doing it: parameters of both networks, and memory. Knows no framework."""

from math import prod

from troika.models.contract import ModelSpec, Schedule
from troika.models.gan.layers import Flatten, Layers, Unflatten, count_activations, count_parameters, output_shapes
from troika.models.gan.networks import normalises_batches, plan_discriminator, plan_generator
from troika.models.gan.settings import GANSettings

FLOAT32 = 4


def parameters_of(settings: GANSettings, spec: ModelSpec) -> dict[str, int]:
    """Network -> trained numbers.

    Raises:
        ParameterError: the network cannot make images of this shape.
    """
    return {
        "generator": count_parameters(plan_generator(settings, spec)),
        "discriminator": count_parameters(plan_discriminator(settings, spec)),
    }


def memory_of(
    settings: GANSettings,
    spec: ModelSpec,
    schedule: Schedule,
    *,
    processes: int,
    pass_bytes: int,
    recorded: bool = False,
) -> dict[str, int]:
    """What for -> bytes in each process, on its device; the images are the framework's to count.

    Peaks that PyTorch's profiler saw on a CPU, for every preset at 8, 28 and 64 pixels, were 0.6 to 1.2 times the
    sum of activations and gradients (tests/models/test_needs.py looks). A framework's own libraries and kernels'
    scratch space come on top.

    Args:
        settings: network and penalty.
        spec: shapes.
        schedule: batch size.
        processes: that share a batch.
        pass_bytes: of one number in a pass: 4, or 2 of bfloat16.
        recorded: as CUDA graphs, which keep their gradients; those with a penalty are graphs of their own.
    """
    generator, discriminator = plan_generator(settings, spec), plan_discriminator(settings, spec)
    height, width, channels = spec.image_shape
    images, penalised = (channels, height, width), settings.penalty != "none"
    batch = -(-schedule.batch_size // processes)

    # While the discriminator learns, the generator's pass waits, and that over real and generated images is held;
    # with a penalty so is the pass back to the images, as it is differentiated again.
    judged = (count_activations(discriminator, images) + prod(images)) * (2 if penalised else 1)
    judged *= 3 if settings.penalty == "wgan_gp" else 2
    # A layer's gradient on the way back, of both halves where they pass together.
    halves = 1 if normalises_batches(discriminator) or settings.penalty in ("r1", "r2") else 2
    passing = halves * _largest_output(discriminator, images) * (2 if penalised else 1)
    kept = prod(images) + count_activations(generator, (1,)) + judged + passing

    trained = parameters_of(settings, spec)
    kept_gradients = sum(trained.values()) * (2 if penalised and settings.penalty_every > 1 else 1)
    return {
        "weights": FLOAT32 * (2 * trained["generator"] + trained["discriminator"]),  # and the moving average
        "gradients": FLOAT32 * (kept_gradients if recorded else max(trained.values())),  # else networks take turns
        "optimiser": FLOAT32 * 2 * sum(trained.values()),
        "activations": pass_bytes * batch * kept,
    }


def _largest_output(layers: Layers, shape: tuple[int, ...]) -> int:
    shapes = output_shapes(layers, shape)
    return max(prod(out) for layer, out in shapes if not isinstance(layer, Flatten | Unflatten))
