"""How `troika run` is told of a data set, and how a cached result is kept from standing for changed data."""
# ruff: noqa: PLC0415

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from troika.errors import ParameterError

DatasetPath = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="IDX files, a folder of images, .npz, or built in: digits, mnist5k; with --repo, the path inside it.",
    ),
]
Repo = Annotated[str | None, typer.Option(help="DVC-tracked Git repository, URL or folder, that holds --dataset.")]
Rev = Annotated[str | None, typer.Option(help="Tag, branch or commit of --repo.")]
Previous = Annotated[
    str | None, typer.Option(help="Compare the data with: another revision of --repo, or a dataset folder.")
]
ModelName = Annotated[str | None, typer.Option("--model", help="Name under which Triton serves the model.")]


class BuiltIn(NamedTuple):
    """What `--dataset NAME` changes besides `prepare_data.source`."""

    environment: str
    """Where it is released, unless TROIKA_ENVIRONMENT says: an environment serves one model."""
    changes: dict[str, Any]
    """To params.yaml; options and --set come after them."""


BUILT_IN = {
    "digits": BuiltIn("local", {}),
    "mnist5k": BuiltIn("mnist5k", {"train.steps": 1600, "export_model.model_name": "mnist5k"}),
}


def built_in(dataset: str | None, repo: str | None) -> str | None:
    """Return the name of the built-in set that the options mean; a file or folder of that name comes first."""
    if dataset is None or dataset not in BUILT_IN or repo or os.path.lexists(dataset):
        return None
    return dataset


def environment(dataset: str | None, repo: str | None) -> str:
    """Return `TROIKA_ENVIRONMENT`, or `local`, or the environment that a built-in set has of its own."""
    from troika.releases import local

    name = built_in(dataset, repo)
    return local.environment(BUILT_IN[name].environment) if name else local.environment()


def data_changes(
    dataset: str | None, repo: str | None, rev: str | None, previous: str | None, model: str | None
) -> list[str]:
    """The options as changes to the parameter file, such as `prepare_data.source=auto`.

    Raises:
        ParameterError: --repo or --rev stands without what it belongs to.
    """
    if repo and not (dataset and rev):
        raise ParameterError(
            "--repo: give --dataset, the path inside the repository, and --rev, a tag or commit, too"
        )
    if rev and not repo:
        raise ParameterError("--rev: give --repo, the DVC-tracked Git repository that it is a revision of, too")
    if dataset and not repo and "://" in dataset:
        raise ParameterError(f"--dataset: {dataset} is a URL; fetch what it leads to, and give the path of that")
    values: dict[str, Any] = {}
    if name := built_in(dataset, repo):
        values["prepare_data.source"] = name
        values |= BUILT_IN[name].changes
    elif dataset:
        if dataset in BUILT_IN and not repo:
            typer.echo(f"{dataset}: what lies here under that name is read, not the built-in set")
        values["prepare_data.source"] = "auto"
        values["prepare_data.path"] = dataset if repo else str(Path(dataset).absolute())
    if repo and rev:
        values["prepare_data.dvc.repo"] = str(Path(repo).absolute()) if os.path.isdir(repo) else repo  # noqa: PTH112
        values["prepare_data.dvc.rev"] = rev
    if previous:
        values["prepare_data.previous"] = previous if repo else str(Path(previous).absolute())
    if model:
        values["export_model.model_name"] = model
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def set_version(sections: dict[str, dict[str, Any]], *, files: bool) -> None:
    """Fill in `prepare_data.version`, so that Kubeflow's cache sees that data have changed.

    For DVC it is the commit that the revision stands for now; for files, where `files` says that they lie on this
    machine, a hash of names, sizes and times.

    Raises:
        DatasetError: the repository or the revision cannot be read.
    """
    data = sections["prepare_data"]
    if data["version"]:
        return
    if data["dvc"]["repo"]:
        from troika.datasets.dvc_source import resolve

        data["version"] = resolve(data["dvc"]["repo"], data["dvc"]["rev"])
    elif data["path"] and files:
        follow = data.get("policies", {}).get("outside_link") == "warn"
        data["version"] = _state_of(Path(data["path"]), follow_outside=follow)


def _state_of(path: Path, *, follow_outside: bool) -> str:
    from troika.datasets.sources.source import check_path
    from troika.datasets.sources.tree import Tree

    digest = hashlib.sha256()
    check_path("path", str(path))
    if path.is_dir():
        tree = Tree(path, follow_outside=follow_outside)
        names = [*(found.name for found in tree.below("")), *tree.left_out]
    else:
        names = [""]
    for name in sorted(names):
        file = os.path.join(path, name) if name else path  # noqa: PTH118
        with suppress(OSError):  # a link to nothing, or in a circle
            state = os.stat(file)  # noqa: PTH116 - faster, for there may be a million
            digest.update(os.fsencode(name) + f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
