"""Fold a trained generator's batch normalisation into the layers before it. Knows no framework."""

from dataclasses import replace

import numpy as np

from troika.models.gan.layers import (
    BATCH_NORM_EPSILON,
    BatchNorm,
    Convolution,
    Layer,
    Layers,
    Linear,
    TransposedConvolution,
    Weights,
)


def fold_batch_norms(layers: Layers, weights: Weights) -> tuple[Layers, Weights]:
    """Layers and weights that give the same outputs with running statistics, up to rounding.

    Args:
        layers: with each BatchNorm behind a layer that has weights.
        weights: theirs, by name.
    """
    folded: list[Layer] = []
    kept: Weights = {}
    for index, layer in enumerate(layers):
        own = {name.removeprefix(f"body.{index}."): value for name, value in weights.items()
               if name.startswith(f"body.{index}.")}  # fmt: skip
        if isinstance(layer, BatchNorm):
            before, at = folded[-1], f"body.{len(folded) - 1}."
            if not isinstance(before, Linear | Convolution | TransposedConvolution):
                raise TypeError(f"{before} before a BatchNorm has no weights to fold it into")
            scale = own["weight"] / np.sqrt(own["running_var"] + np.float32(BATCH_NORM_EPSILON))
            outputs = 1 if isinstance(before, TransposedConvolution) else 0
            shape = [-1 if axis == outputs else 1 for axis in range(kept[f"{at}weight"].ndim)]
            bias = kept.get(f"{at}bias", np.float32(0)) - own["running_mean"]
            kept[f"{at}weight"] = kept[f"{at}weight"] * scale.reshape(shape)
            kept[f"{at}bias"] = own["bias"] + bias * scale
            folded[-1] = replace(before, bias=True)
        else:
            kept |= {f"body.{len(folded)}.{name}": value for name, value in own.items()}
            folded.append(layer)
    return tuple(folded), kept
