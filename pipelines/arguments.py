"""Values of a run: fields of the run form where there is one, `overrides` for the rest of params.yaml.

A version of the pipeline is code, image and the values of the parameter file; what one run changes is given to
that run alone, so that no other run ever takes it over.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.package import check_values
from troika.errors import ParameterError


class Field(NamedTuple):
    """A field of the run form."""

    kind: str
    """As a compiled package names it."""
    path: tuple[str, ...] = ()
    """Path of its value in params.yaml; empty if it has none there."""


_TEXT, _WHOLE, _NUMBER, _GROUP = "STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "STRUCT"
FORM: dict[str, Field] = {
    "store": Field(_TEXT),
    "release_remote": Field(_TEXT),
    "environment": Field(_TEXT),
    "source": Field(_TEXT, ("prepare_data", "source")),
    "data_path": Field(_TEXT, ("prepare_data", "path")),
    "dvc_repo": Field(_TEXT, ("prepare_data", "dvc", "repo")),
    "dvc_rev": Field(_TEXT, ("prepare_data", "dvc", "rev")),
    "data_version": Field(_TEXT, ("prepare_data", "version")),
    "framework": Field(_TEXT, ("train", "framework")),
    "preset": Field(_TEXT, ("train", "preset")),
    "steps": Field(_WHOLE, ("train", "steps")),
    "seed": Field(_WHOLE, ("train", "seed")),
    "model_name": Field(_TEXT, ("export_model", "model_name")),
    "champion_must": Field(_TEXT, ("evaluate", "champion", "must")),
    "label_agreement_margin": Field(_NUMBER, ("evaluate", "limits", "label_agreement", "below_floor")),
    "frechet_distance_margin": Field(_NUMBER, ("evaluate", "limits", "frechet_distance", "above_floor")),
    "overrides": Field(_GROUP),
}
"""The same as the parameters of `train_and_release`, which a test compares."""
REQUIRED = ("store", "release_remote", "environment")
_WORDS = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "STRUCT": "a group of `key: value`",
    "BOOLEAN": "true or false",
    "LIST": "a list",
}


def run_arguments(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes to params.yaml as arguments of a run.

    Args:
        changes: nested values by step, as `--set` gives them.

    Raises:
        ParameterError: a value cannot be handed over.
    """
    paths = {field.path: name for name, field in FORM.items() if field.path}
    arguments: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for path, value in _leaves(changes):
        name = paths.get(path)
        if name is None:
            _put(overrides, path, value)
        elif value is None and FORM[name].kind == _NUMBER:
            arguments[name] = -1.0  # the form's word for "no such limit"
        else:
            arguments[name] = value
    if overrides:
        arguments["overrides"] = overrides
    check_values(changes, "--set")
    _check_no_null(arguments, "--set")
    return arguments


def check_arguments(arguments: Mapping[str, Any], where: str, inputs: Mapping[str, Any] | None = None) -> None:
    """Raise ParameterError where a run's arguments are not those that the package asks for.

    Args:
        arguments: by name of the field.
        where: how a message names their source.
        inputs: `root.inputDefinitions.parameters` of a package; None: the form of this one.
    """
    known = {name: field.kind for name, field in FORM.items()}
    needed = [*REQUIRED]
    if inputs is not None:
        known = {name: str(entry.get("parameterType")) for name, entry in inputs.items()}
        needed = [
            name for name, entry in inputs.items() if "defaultValue" not in entry and not entry.get("isOptional")
        ]
    missing = [name for name in needed if name not in arguments]
    if missing:
        raise ParameterError(f"{where}: {', '.join(missing)} must be given: the form has no default for it")
    for name, value in arguments.items():
        if name not in known:
            raise ParameterError(f"{where}: the pipeline has no argument {name!r}; it has {', '.join(known)}")
        if not _is_a(known[name], value):
            raise ParameterError(f"{where}: {name} must be {_WORDS.get(known[name], known[name])}, not {value!r}")
    check_values(arguments, where)
    _check_no_null(arguments, where)


def inputs_of(package: Any) -> Mapping[str, Any] | None:
    """Return the parameters that a package asks for, as the API server shows it; None: it does not show them."""
    spec = package.get("pipeline_spec", package) if isinstance(package, Mapping) else None
    root = spec.get("root") if isinstance(spec, Mapping) else None
    if not isinstance(root, Mapping):
        return None
    found = (root.get("inputDefinitions") or {}).get("parameters")
    return found if isinstance(found, Mapping) else None


def retries_of(package: Any) -> dict[str, int]:
    """Return how often a package lets each task be tried again; tasks that never are, are missing."""
    found: dict[str, int] = {}
    todo = [package]
    while todo:
        part = todo.pop()
        if not isinstance(part, Mapping):
            continue
        for name, task in (part.get("tasks") or {}).items() if isinstance(part.get("tasks"), Mapping) else ():
            policy = task.get("retryPolicy") if isinstance(task, Mapping) else None
            if isinstance(policy, Mapping):
                found[str(name)] = int(policy.get("maxRetryCount", 0))
        todo += list(part.values())
    return found


def without_cache(package: list[Any]) -> dict[str, Any]:
    """Return a package's documents as one specification of a run in which no task takes an earlier result."""
    todo: list[Any] = [package[0]]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            part.pop("cachingOptions", None)
            todo += list(part.values())
    specification: dict[str, Any] = {"pipeline_spec": package[0]}
    if len(package) > 1:
        specification["platform_spec"] = package[1]
    return specification


def _is_a(kind: str, value: Any) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if isinstance(value, bool):
        return kind == "BOOLEAN"
    if kind == _WHOLE:
        return isinstance(value, int)
    if kind == _NUMBER:
        return isinstance(value, int | float)
    if kind == "LIST":
        return isinstance(value, list)
    return isinstance(value, Mapping) if kind == _GROUP else kind != "BOOLEAN"


def _check_no_null(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_no_null(part, f"{where}: {key}" if ": " not in where else f"{where}.{key}")
    elif value is None:
        raise ParameterError(f"{where}: null cannot be handed to a run; change the parameter file and its version")


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in values.items():
        here = (*path, str(key))
        found += _leaves(value, here) if isinstance(value, Mapping) and value else [(here, value)]
    return found


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value
