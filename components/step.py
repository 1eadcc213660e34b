"""How a step function becomes a command, and how every driver hands it its parameters.

A step is a function whose `Path` arguments are files and folders, whose `str` arguments are facts of the
environment (a store, a remote), and whose `params` argument is its section of `params.yaml`.
"""

import argparse
import errno
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from troika.errors import (
    ParameterError,
    ReleaseError,
    ServerError,
    StoreError,
    SupersededError,
    TrainingPausedError,
    TroikaError,
)
from troika.params import Params, merge, parse_assignments, read_params

Step = Callable[..., Any]


STEPS = (
    "prepare_data",
    "train",
    "export_model",
    "train_evaluator",
    "find_champion",
    "evaluate",
    "publish_model",
    "release_model",
)
"""In the order of the graph; each is a module here, and a section of params.yaml where it has parameters."""
OUTSIDE = ("find_champion", "publish_model", "release_model")
"""Steps that look at or change what lies outside the run: an earlier run's answer says nothing."""
LIGHT = ("find_champion", "publish_model", "release_model")
"""Steps that train and judge nothing: they run in the light image, which has no PyTorch, where one is given."""


def params_type(step: Step) -> type[Params] | None:
    """The type of a step's `params` argument; None for a step without parameters."""
    annotation: type[Params] | None = typing.get_type_hints(step).get("params")
    return annotation


def resolve_params(
    step: Step,
    *layers: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    where: str = "parameters",
) -> Any:
    """Check a step's parameters, later layers laid over earlier ones.

    Args:
        step: the step whose `params` argument is wanted.
        layers: values of its section.
        overrides: values by step name, laid over everything; other steps' are ignored here.
        where: how an error message names the source of the values.

    Raises:
        ParameterError: see `Params.parse`; or `overrides` names no step.
    """
    check_sections(overrides or {}, "overrides")
    kind = params_type(step)
    if kind is None:
        raise TypeError(f"{step.__name__} has no parameters")
    values: dict[str, Any] = {}
    for layer in (*layers, (overrides or {}).get(step.__name__, {})):
        values = merge(values, layer)
    return kind.parse(values, f"{where}: {step.__name__}")


def check_sections(sections: Mapping[str, Any], where: str) -> None:
    """Raise ParameterError where a section is not a mapping under the name of a step."""
    for name, section in sections.items():
        if name not in STEPS:
            raise ParameterError(f"{where}: there is no step {name!r}; the steps are {', '.join(STEPS)}")
        if not isinstance(section, Mapping):
            raise ParameterError(f"{where}: {name} must hold `key: value` pairs, not {section!r}")


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Read a parameter file and check that its sections are steps.

    Raises:
        ParameterError: see `read_params`; or a section is of no step.
    """
    sections = read_params(path)
    check_sections(sections, str(path))
    return sections


def section_of(step: Step, sections: Mapping[str, Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    """A step's section of a parameter file; ParameterError if it is missing."""
    if step.__name__ not in sections:
        raise ParameterError(f"{path}: section {step.__name__!r} is missing")
    return sections[step.__name__]


FAILED = 1
"""Exit status of a step that would fail again with the same input; so does a bug, with its traceback."""
UNAVAILABLE = 69
"""Exit status where a store, Git or a server did not answer or refused, which may pass: EX_UNAVAILABLE."""
PAUSED = 75
"""Exit status of a step that has saved where it was and wants to be started again: EX_TEMPFAIL of sysexits.h."""
_OUTSIDE_ERRORS = (StoreError, ReleaseError, ServerError)
_THE_MACHINES_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


STEP_ENVIRONMENT = "TROIKA_STEP_ENVIRONMENT"
"""Variable of a pod: JSON of variables of the step alone, each as `{"file": path}` or `{"text": text}`."""


def set_step_environment() -> None:
    """Set the variables that STEP_ENVIRONMENT describes, from the secrets that are mounted in a pod.

    Kubeflow's launcher, the parent process, must not have them: it heeds AWS_* and GOOGLE_* for its artifacts.

    Raises:
        ParameterError: a file is missing, or is no text.
    """
    for name, source in json.loads(os.environ.get(STEP_ENVIRONMENT, "{}")).items():
        if "text" in source:
            os.environ[name] = source["text"]
            continue
        path = Path(source["file"])
        try:
            # A secret that was made from a file often ends with a line break, which is no part of a key.
            os.environ[name] = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise ParameterError(
                f"{name}: cannot read {path} ({said}); has the secret that is mounted at {path.parent} a key "
                f"{path.name!r}?"
            ) from None


@contextmanager
def clear_errors() -> Iterator[None]:
    """Set the step's environment; print a TroikaError, or what a full or closed disk says, as one line and exit.

    The exit status says of what kind it was: FAILED, UNAVAILABLE or PAUSED. Anything else is a bug and keeps its
    traceback.
    """
    try:
        set_step_environment()
        yield
    except TrainingPausedError as error:
        print(f"paused: {error}", flush=True)
        sys.exit(PAUSED)
    except TroikaError as error:
        print(f"error: {error}", flush=True)
        may_pass = isinstance(error, _OUTSIDE_ERRORS) and not isinstance(error, SupersededError)
        sys.exit(UNAVAILABLE if may_pass else FAILED)
    except OSError as error:
        if error.errno not in _THE_MACHINES_FAULT:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}; make room, or give a folder that may be written", flush=True)
        sys.exit(FAILED)


def run_step(step: Step, arguments: list[str] | None = None) -> None:
    """Run a step as a command: `python -m components.<step> --help`.

    Where the step's module has a function `dry_run`, an option of that name calls it instead, with those of the
    step's arguments that it takes.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    dry_run = getattr(sys.modules[step.__module__], "dry_run", None)
    called = dry_run if dry_run is not None and "--dry-run" in arguments else step
    needed = inspect.signature(called).parameters
    signature = inspect.signature(step)
    hints = typing.get_type_hints(step)
    docs = _argument_docs(step)
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{step.__name__}",
        description=inspect.getdoc(sys.modules[step.__module__]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example: python -m components.{step.__name__} "
        + " ".join(
            f"--{name.replace('_', '-')} {name.upper()}"
            for name, argument in signature.parameters.items()
            if name not in ("params", *_FACTS) and argument.default is argument.empty
        ),
    )
    for name, argument in signature.parameters.items():
        if name == "params":
            continue
        kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=next(kind for kind in kinds if kind is not types.NoneType),
            required=name in needed and argument.default is argument.empty and name not in _FACTS,
            help=docs.get(name, "") + (f" Default: {inspect.getdoc(_fact(name))}" if name in _FACTS else ""),
            metavar="PATH" if Path in kinds else "TEXT",
        )
    kind = params_type(step)
    if kind is not None:
        parser.add_argument(
            "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: params.yaml"
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"change one parameter of section {step.__name__}, such as "
            f"{next(iter(kind.model_fields))}=...; may be repeated",
        )
    if dry_run is not None:
        parser.add_argument("--dry-run", action="store_true", help=(inspect.getdoc(dry_run) or "").splitlines()[0])
    given = vars(parser.parse_args(arguments))
    given.pop("dry_run", None)
    with clear_errors():
        if kind is not None:
            path, changes = given["params"], parse_assignments(given.pop("set"))
            section = section_of(step, read_sections(path), path)
            given["params"] = resolve_params(step, section, changes, where=str(path))
        for name in _FACTS:
            if name in signature.parameters and given[name] is None:
                given[name] = _fact(name)()
        called(**{name: value for name, value in given.items() if value is not None and name in needed})


_FACTS = {"store": "store_url", "remote": "release_remote", "environment": "environment"}
"""Facts of the environment that a step may take, and the function of troika.releases.local that knows them."""


def _fact(name: str) -> Callable[[], str]:
    # Imported by name and late: only steps that publish or release depend on that code.
    function: Callable[[], str] = getattr(import_module("troika.releases.local"), _FACTS[name])
    return function


def _argument_docs(step: Step) -> dict[str, str]:
    """Name -> text, from the `Args:` part of a Google-style docstring."""
    docs: dict[str, str] = {}
    name = ""
    inside = False
    for line in (inspect.getdoc(step) or "").splitlines():
        if not line.startswith(" "):
            inside = line.strip() == "Args:" if line.strip() else inside
            continue
        if not inside:
            continue
        text = line.strip()
        if not line.startswith("     ") and ":" in text:
            name, _, text = text.partition(":")
        docs[name] = f"{docs.get(name, '')} {text.strip()}".strip()
    return {name: text.replace("%", "%%") for name, text in docs.items()}
