"""How commands are given parameters: a file, and changes to it on the command line."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated, Any

import typer

from troika.errors import ParameterError

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STEP.KEY=VALUE", help="Change one parameter; may be repeated."),
]
PARAMS = Path("params.yaml")


def read_parameters(params: Path, changes: list[str] | None, train: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameter file with the changes of the command line, every section checked by its step.

    Args:
        params: the file.
        changes: values of --set.
        train: values of options with names of their own, such as --preset.

    Raises:
        ParameterError: a value is wrong; it names where that came from: the file, --set or the option.
    """
    from importlib import import_module

    from components.step import STEPS, check_sections, params_type, read_sections, resolve_params, section_of
    from troika.params import merge, parse_assignments

    given = parse_assignments(changes or [])
    check_sections(given, "--set")
    read = read_sections(params)
    options = ", ".join(f"--{name}" for name in train)
    sources = [(str(params), read), ("--set", merge(read, given))]
    sources.append((options, merge(sources[-1][1], {"train": train})))
    sections = sources[-1][1]
    for name in STEPS:
        step = getattr(import_module(f"components.{name}"), name)
        if params_type(step) is not None:
            try:
                resolve_params(step, section_of(step, sections, params), where=str(params))
            except ParameterError:
                # The first source with which it fails is the one to be named.
                for where, so_far in sources:
                    resolve_params(step, section_of(step, so_far, params), where=where)
                raise
        elif name in sections:
            raise ParameterError(f"{params}: {name} has no parameters; remove its section")
    return sections
