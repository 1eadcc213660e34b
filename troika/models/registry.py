"""Which models there are: one line per family and framework. Nothing is imported until it is asked for."""

from importlib import import_module

from troika.errors import ParameterError, install_hint
from troika.models.contract import GenerativeModel
from troika.params import Params

_MODELS: dict[tuple[str, str], str] = {
    ("gan", "pytorch"): "troika.models.gan.pytorch_gan:PyTorchGAN",
    ("gan", "tensorflow"): "troika.models.gan.tensorflow_gan:TensorFlowGAN",
    # ("vae", "pytorch"): "troika.models.vae.pytorch_vae:PyTorchVAE",
}
_SETTINGS: dict[str, str] = {
    "gan": "troika.models.gan.settings:GANSettings",
}


def model_class(family: str, framework: str) -> type[GenerativeModel]:
    """The class for a family and framework.

    Raises:
        ParameterError: there is none; the message lists those that exist. Or its framework is not installed.
    """
    check_exists(family, framework)
    try:
        loaded: type[GenerativeModel] = _load(_MODELS[family, framework])
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"framework: {framework} is not installed here ({error}); {install_hint(framework)}, or run in a "
            f"train image built with FRAMEWORK={framework}"
        ) from error
    return loaded


def settings_class(family: str) -> type[Params]:
    """The settings that a family's presets consist of; importing it needs no framework."""
    loaded: type[Params] = _load(_SETTINGS[family])
    return loaded


def check_exists(family: str, framework: str) -> None:
    """Raise ParameterError, naming what exists, unless this family is available in this framework."""
    families = sorted({known for known, _ in _MODELS})
    if family not in families:
        raise ParameterError(f"family: there is no {family!r}; available: {', '.join(families)}")
    frameworks = sorted(known for of, known in _MODELS if of == family)
    if framework not in frameworks:
        raise ParameterError(f"framework: {family} has no {framework!r}; available: {', '.join(frameworks)}")


def _load(target: str):  # type: ignore[no-untyped-def]
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
