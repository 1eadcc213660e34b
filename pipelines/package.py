"""Write a package so that the backend reads what was meant: every text quoted, and nothing in it that cannot pass.

The backend reads packages by Go's YAML, which takes `08`, `1e5` and `0o17` for numbers where PyYAML, which KFP's
compiler writes with, sees texts; and it holds every number as a float.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict

from troika.errors import ParameterError

EXACT = 2**53
"""The largest integer up to which a float is exact; the backend rounds larger ones without a word."""
_LONGEST_KEY = 1000
"""YAML's limit for a key on one line is 1024 characters."""
_CANNOT_PASS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that Go's YAML does not write, or not as they were, and that no argument of a process may hold."""
_REPLACED = {
    "{{": "Argo replaces what stands between {{ and }}",
    "$(": "Kubernetes replaces $(NAME) in a command",
}


def check_values(values: Mapping[str, Any], where: str, *, nulls: bool = True) -> None:
    """Raise ParameterError where a value would reach a step as another one, or not at all.

    Args:
        values: parameters as plain data: sections, arguments of a run, changes of a trial.
        where: how the error names their source, such as `params.yaml`.
        nulls: whether there may be nulls; KFP's compiler takes none.
    """
    _check(values, "", where, nulls)


def _check(value: Any, key: str, where: str, nulls: bool) -> None:
    if isinstance(value, Mapping):
        for name, part in value.items():
            inner = f"{key}.{name}".lstrip(".")
            if problem := _problem_of_a_key(name):
                raise ParameterError(f"{where}: {_short(inner)}: the key {_short(name)} {problem}")
            _check(part, inner, where, nulls)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _check(part, f"{key}[{number}]", where, nulls)
    elif value is None and not nulls:
        raise ParameterError(f"{where}: {key}: null cannot be handed on; leave the key out, or give a value")
    elif isinstance(value, str) and _holds_a_password(value):
        raise ParameterError(
            f"{where}: {key}: this URL holds a password or token, and whoever sees the run would see it: leave it "
            "out, and give the step a secret in the cluster file"
        )
    elif problem := _problem(value):
        raise ParameterError(f"{where}: {key}: {_short(value)}: {problem}")


def _problem_of_a_key(name: Any) -> str | None:
    if not isinstance(name, str):
        return "is no text; quote it"
    if name == "<<":
        return "is YAML's mark for merging, even in quotes"
    return f"is longer than {_LONGEST_KEY} characters" if len(name) > _LONGEST_KEY else _problem(name)


def _problem(value: Any) -> str | None:
    if isinstance(value, str):
        return reason_not_to_pass(value)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        exact = abs(value) <= EXACT
        return (
            None if exact else f"Kubeflow holds numbers as floats and would round it; the largest exact is {EXACT}"
        )
    if isinstance(value, float):
        return None if math.isfinite(value) else "it is not a finite number"
    return f"Kubeflow hands on no {type(value).__name__}; if it is a text, quote it"


def reason_not_to_pass(text: str) -> str | None:
    """Return why a text would not reach a step as it is, or None."""
    if found := _CANNOT_PASS.search(text):
        return f"the character U+{ord(found[0]):04X} cannot be handed on"
    return next((problem for mark, problem in _REPLACED.items() if mark in text), None)


def _holds_a_password(text: str) -> bool:
    # The user alone is no secret by ssh (`git@`); by http it is where tokens stand.
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)@", text)
    return found is not None and (":" in found[2] or found[1].lower() in {"http", "https"})


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_package(path: Path, pipeline: Any) -> None:
    """Write a pipeline as KFP's package: the graph, and what its pods get.

    Args:
        path: file to write.
        pipeline: what `dsl.pipeline` made.
    """
    documents = [MessageToDict(pipeline.pipeline_spec)]
    if pipeline.platform_spec.ListFields():
        documents.append(MessageToDict(pipeline.platform_spec))
    write_documents(path, documents)


def write_documents(path: Path, documents: Sequence[Mapping[str, Any]]) -> None:
    """Write YAML that every reader reads the same: texts and keys in double quotes, numbers plain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump_all(documents, Dumper=_Quoting, sort_keys=True, width=math.inf)
    path.write_text(text, encoding="utf-8")


class _Quoting(yaml.SafeDumper):
    """YAML with every text in double quotes, which no reader takes for anything else."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Return True: repeated values are written again, not as references."""
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Quoting.add_representer(str, _quoted)
