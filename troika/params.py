"""Parameters: `params.yaml` -> one frozen, strictly typed object per step.

Does not hold any default: those stand in `params.yaml`, and only there.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from troika.errors import ParameterError


class Params(BaseModel):
    """Base of all parameter groups: immutable, finite, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Check `values` against this type.

        Args:
            values: plain data, as read from YAML or JSON.
            where: how an error message names the group, such as `params.yaml: train`.

        Raises:
            ParameterError: names every key that is unknown, missing or of the wrong type, and what is expected.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = "\n".join(f"  - {_explain(problem, cls)}" for problem in error.errors())
            raise ParameterError(f"{where} is not valid:\n{problems}") from None


def _explain(problem: Any, cls: type[Params]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if not key:  # A check of several parameters together, whose words name them.
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = cls.model_fields if len(problem["loc"]) == 1 else None
        hint = f"; known keys: {', '.join(known)}" if known else ""
        return f"{key}: unknown key{hint}"
    if problem["type"] == "missing":
        return f"{key}: missing, and there is no hidden default"
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
    hint = "; YAML takes 1e-3 for text, write 1.0e-3" if _looks_like_a_number(problem["input"]) else ""
    return f"{key}: {message}{got}{hint}"


def _looks_like_a_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+[eE][+-]?[0-9]+", value) is not None


def read_params(path: Path) -> dict[str, dict[str, Any]]:
    """Read a whole parameter file: section name (= step name) -> plain values.

    Raises:
        ParameterError: the file is missing, is not YAML, holds a key twice, or a section is not a mapping.
    """
    sections = "one section of `key: value` lines per step"
    content = read_mapping(path, holds=sections)
    if not all(isinstance(section, dict) for section in content.values()):
        raise ParameterError(f"parameter file {path} must hold {sections}")
    return content


def read_mapping(
    path: Path, what: str = "parameter file", how: str = "--params FILE", holds: str = "`key: value` lines"
) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines.

    Args:
        path: the file.
        what: how an error message calls it.
        how: how another one is given.
        holds: what such a file must hold.

    Raises:
        ParameterError: the file is missing, is not YAML, holds a key twice, or something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
        _refuse_cycles(content, set(), set())
    except FileNotFoundError:
        raise ParameterError(f"{what} {path} does not exist; give {how}") from None
    except OSError as error:
        raise ParameterError(f"{what} {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # such as of a 13th month
        raise ParameterError(f"{what} {path} is not valid YAML: {error}") from None
    except RecursionError:
        raise ParameterError(f"{what} {path} is nested too deeply, or holds itself by an alias") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{what} {path} must hold {holds}")
    return content


def _refuse_cycles(value: Any, above: set[int], seen: set[int]) -> None:
    """Raise RecursionError where a value holds itself, which YAML's aliases allow."""
    if not isinstance(value, dict | list):
        return
    if id(value) in above:
        raise RecursionError
    if id(value) in seen:
        return
    seen.add(id(value))
    for part in value.values() if isinstance(value, dict) else value:
        _refuse_cycles(part, above | {id(value)}, seen)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with `changes` laid over them, group by group; neither argument is altered.

    Whole numbers that arrive as floats (Kubeflow hands over every number of a `dict` that way) become
    integers again; a float parameter takes an integer, so nothing is lost.
    """
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(change, Mapping):
            merged[key] = merge(old if isinstance(old, Mapping) else {}, change)
        else:
            merged[key] = _whole(change)
    return merged


def _whole(value: Any) -> Any:
    """Whole floats as integers, in lists too."""
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `["steps=100", "presets.r3gan.latent_size=32"]` into nested values; the right side is YAML.

    Raises:
        ParameterError: an entry has no `=`, no key before it, or no YAML behind it.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ParameterError(f"--set {assignment!r}: expected KEY=VALUE, such as steps=100")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ParameterError(f"--set {assignment!r}: what follows the = is not valid YAML: {error}") from None
        changes = merge(changes, nested({key.strip(): value}))
    return changes


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"presets.r3gan.latent_size": 32}` into nested values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        group: Any = value
        for part in reversed(key.split(".")):
            group = {part: group}
        found = merge(found, group)
    return found
