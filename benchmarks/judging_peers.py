"""Other judges of generated images, on features that are given to them: torch-fidelity, torchmetrics, prdc.

Oracles of tests, and what judging_speed.py measures against. Nothing here is needed to judge.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


class _FakeTorchvision(ModuleType):
    """Has every name and does nothing: torch-fidelity imports torchvision to read data, and is given features."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextlib.contextmanager
def _fake_torchvision() -> Iterator[None]:
    """PyPI's torchvision is built for CUDA and cannot be imported beside PyTorch for CPUs."""
    names = [
        "torchvision",
        *(f"torchvision.{part}" for part in ("datasets", "transforms", "transforms.functional")),
    ]
    for name in names:
        sys.modules[name] = _FakeTorchvision(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def fidelity() -> tuple[Any, Any, Any]:
    """torch-fidelity's modules for the Fréchet distance, the kernel distance, precision and recall."""
    if "torch_fidelity" not in sys.modules:
        with _fake_torchvision():
            import torch_fidelity  # noqa: F401
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    return metric_fid, metric_kid, metric_prc


def fidelity_frechet(fake: Features, real: Features) -> float:
    """Fréchet distance of torch-fidelity."""
    import torch

    module, _, _ = fidelity()
    one, other = (module.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (fake, real))
    return float(module.fid_statistics_to_metric(one, other, verbose=False)["frechet_inception_distance"])


def fidelity_kernel(fake: Features, real: Features) -> float:
    """Kernel distance of torch-fidelity of whole sets: one subset that holds all."""
    import torch

    _, module, _ = fidelity()
    found = module.kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), kid_subsets=1, kid_subset_size=len(fake), verbose=False
    )
    return float(found["kernel_inception_distance_mean"])


def fidelity_precision_recall(fake: Features, real: Features, k: int) -> tuple[float, float]:
    """Precision and recall of torch-fidelity."""
    import torch

    _, _, module = fidelity()
    found = module.prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=k, save_cpu_ram=True, verbose=False
    )
    return float(found["precision"]), float(found["recall"])


def torchmetrics_frechet(fake: Features, real: Features) -> float:
    """Fréchet distance of torchmetrics: its class, with an extractor that gives its input back."""
    import torch

    fidelity()  # torchmetrics imports it where it is installed
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(), input_img_size=(1, 1, fake.shape[1]))
    metric.set_dtype(torch.float64)
    for rows, is_real in ((fake, False), (real, True)):
        metric.update(torch.from_numpy(rows)[:, None, None], real=is_real)
    return float(metric.compute())


def torchmetrics_kernel(fake: Features, real: Features) -> float:
    """Kernel distance of torchmetrics of whole sets: one subset that holds all."""
    import torch

    fidelity()
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all features
        metric = KernelInceptionDistance(_Given(), subsets=1, subset_size=len(fake))
    for rows, is_real in ((fake, False), (real, True)):
        metric.update(torch.from_numpy(rows)[:, None, None], real=is_real)
    return float(metric.compute()[0])


def _Given() -> Any:  # noqa: N802
    import torch

    class Given(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    return Given()


def prdc_neighbourhood(fake: Features, real: Features, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage of prdc."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot start eight processes inside another
        return {name: float(value) for name, value in compute_prdc(real, fake, k).items()}
