"""Is each object what Kubernetes, or the operator it is for, knows? Strict: an unknown property is an error.

Kubernetes' own kinds against the schemas of kubernetes-validate, custom ones against the schemas of their CRDs.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from rendering import Object, jobs_of_analysis, name_of

VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
_METADATA = {"name", "namespace", "labels", "annotations"}


def is_custom(thing: Object) -> bool:
    """Whether a CRD defines it: Kubernetes' own groups have no dot, or end in k8s.io."""
    group = thing["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def problems(things: list[Object], crds: Path | None) -> list[str]:
    """What is wrong, by object; empty if nothing is.

    Args:
        things: rendered objects.
        crds: folder of the CRDs' schemas, with index.json; None leaves custom objects out.
    """
    found = []
    for thing in [*things, *jobs_of_analysis(things)]:
        if unknown := set(thing["metadata"]) - _METADATA:
            found.append(f"{name_of(thing)}: metadata has {', '.join(sorted(unknown))}")
        if is_custom(thing):
            found += custom_problems(thing, crds) if crds else []
        else:
            found += kubernetes_problems(thing)
    return found


def kubernetes_problems(thing: Object) -> list[str]:
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            found.append(f"{name_of(thing)}: Kubernetes {version} has no {thing['apiVersion']} {thing['kind']}")
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.absolute_path))
            found.append(f"{name_of(thing)}: Kubernetes {version}: {path}: {error.message[:300]}")
    return found


def custom_problems(thing: Object, crds: Path) -> list[str]:
    key = (thing["apiVersion"], thing["kind"])
    known = index(crds)
    if key not in known:
        return [f"{name_of(thing)}: no schema for {thing['apiVersion']} {thing['kind']}"]
    validator = jsonschema.Draft202012Validator(known[key])
    return [
        f"{name_of(thing)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for error in validator.iter_errors(thing)
    ]


@functools.cache
def index(crds: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Strict schemas by apiVersion and kind."""
    rows = json.loads((crds / "index.json").read_text(encoding="utf-8"))
    return {
        (row["apiVersion"], row["kind"]): _strict(json.loads((crds / row["file"]).read_text(encoding="utf-8")))
        for row in rows
    }


def _strict(schema: Any) -> Any:
    """`schema` that refuses properties it does not know, unless it says that they are kept."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value for key, value in schema.items() if key != "properties"}
    strict = {key: _strict(value) for key, value in strict.items()}
    if "properties" in schema:
        strict["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    return strict


# Loading a version's definitions takes longer than judging by them.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
