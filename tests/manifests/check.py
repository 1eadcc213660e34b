"""Check everything in manifests/: `make check` runs it, and so may you for one folder.

    python tests/manifests/check.py [FOLDER ...] [--deployable]

Exit status 1: something is wrong; each line says what. --deployable: also what must be set before it can run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import network
import rules
import schemas
import typer
import yaml
from rendering import MANIFESTS, Object, RenderError, jobs_of_analysis, render_objects, roots

CRDS = "TROIKA_TEST_CRDS"


def crds() -> Path | None:
    """Folder of the CRDs' schemas, from the environment.

    Raises:
        SystemExit: it is not given, and this is CI.
    """
    folder = os.environ.get(CRDS)
    if not folder and os.environ.get("CI") == "true":
        raise SystemExit(f"error: {CRDS} must name the folder of the CRDs' schemas")
    return Path(folder) if folder else None


def problems(things: list[Object], schemas_of_crds: Path | None) -> list[str]:
    """What is wrong with what was rendered from one folder."""
    return [*schemas.problems(things, schemas_of_crds), *rules.problems(things)]


def scan(renders: dict[str, list[Object]]) -> list[str]:
    """What checkov says against all of them, in one call."""
    with tempfile.TemporaryDirectory(prefix="troika-checkov-") as folder:
        for name, things in renders.items():
            # Custom objects mean nothing to it, but the Jobs in them do.
            known = [t for t in things if not schemas.is_custom(t)] + list(jobs_of_analysis(things))
            Path(folder, f"{name.replace('/', '-')}.yaml").write_text(yaml.safe_dump_all(known), encoding="utf-8")
        tool = Path(sys.executable).parent / "uv"
        (checkov,) = set(
            re.findall(r"checkov==[\d.]+", (MANIFESTS.parent / "Makefile").read_text(encoding="utf-8"))
        )
        wheels = ["--find-links", links] if (links := os.environ.get("PIP_FIND_LINKS")) else []
        done = subprocess.run(
            [tool, "tool", "run", "--quiet", "--python", sys.executable, *wheels, checkov, "--directory", folder,
             "--framework", "kubernetes", "--output", "json", "--quiet", "--compact", "--skip-download"],
            check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    try:
        report = json.loads(done.stdout)
        failed, passed = report["results"]["failed_checks"], report["summary"]["passed"]
        errors = report["results"].get("parsing_errors", [])
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"error: checkov says nothing usable ({error!r}): {done.stderr[-2000:]}") from None
    if not passed:
        raise SystemExit("error: checkov looked at nothing")
    return [f"{e}: checkov cannot read it" for e in errors] + [
        f"{check['file_path'].strip('/')}: {check['resource']}: {check['check_id']}: {check['check_name']}"
        for check in failed
    ]


def main(
    folders: Annotated[list[Path] | None, typer.Argument(help="Default: all that are applied.")] = None,
    deployable: Annotated[bool, typer.Option(help="Images, release and keys must be set, too.")] = False,
) -> None:
    """Render, and judge by schemas, rules, network and checkov."""
    found = rules.patch_targets()
    known = crds()
    if known is None:
        print(f"manifests: custom objects are not checked, since {CRDS} names no folder of schemas")
    renders: dict[str, list[Object]] = {}
    for folder in folders or roots():
        name = folder.resolve().relative_to(MANIFESTS.resolve()).as_posix()
        try:
            renders[name] = render_objects(folder)
        except RenderError as error:
            found.append(str(error))
            continue
        found += [f"{name}: {problem}" for problem in problems(renders[name], known)]
        unset = rules.not_set_yet(renders[name])
        if deployable:
            found += [f"{name}: {problem}" for problem in unset]
        elif unset:
            print(f"manifests: {name}: {len(unset)} things to set before it can run (--deployable names them)")
    if not folders:
        found += network.differences(renders)
    found += scan(renders)
    for problem in found:
        print(f"manifests: {problem}", file=sys.stderr)
    if found:
        raise typer.Exit(1)
    print(f"manifests: {sum(map(len, renders.values()))} objects of {len(renders)} folders are as they should be")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
