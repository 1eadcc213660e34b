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
    """The parameter file with the changes of the command line; every section checked by its step."""
    from importlib import import_module

    from components.step import STEPS, check_sections, params_type, read_sections, resolve_params, section_of
    from troika.params import merge, parse_assignments

    given = parse_assignments(changes or [])
    check_sections(given, "--set")
    sections = merge(merge(read_sections(params), given), {"train": train})
    for name in STEPS:
        step = getattr(import_module(f"components.{name}"), name)
        if params_type(step) is not None:
            resolve_params(step, section_of(step, sections, params), where=str(params))
        elif name in sections:
            raise ParameterError(f"{params}: {name} has no parameters; remove its section")
    return sections
