"""Recurring runs: made as a file declares them, each pinned to one version of the pipeline, which a command moves.

All is checked before anything is changed, and the new one is made before the old one is deleted.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kfp_server_api
from pydantic import Field, field_validator

from pipelines.arguments import check_arguments, inputs_of
from pipelines.connection import KubeflowError
from pipelines.cron import six_fields
from pipelines.follow import retry_lost
from pipelines.graph import PIPELINE_NAME
from pipelines.submit import Kubeflow, made_at
from troika.errors import ParameterError
from troika.params import Params, read_mapping

Say = Callable[[str], None]
_MARK = "Kept by `troika recurring`; declaration "
"""How a recurring run that is declared in a file is told from one that somebody made by hand."""
_BY_FILE = "; version by its file"
_LONGEST_NAME = 100


class RecurringRun(Params):
    """One declared recurring run."""

    cron: str
    """Five fields as in crontab, or six, seconds first: `0 2 * * *` and `0 0 2 * * *` are every night at two."""
    arguments: dict[str, Any]
    """Values of the run form."""
    enabled: bool = True
    max_concurrency: int = Field(default=1, ge=1, le=10)
    version: str | None = None
    """Version of the pipeline; None: the one that it has, and for a new one the newest, until it is promoted."""

    @field_validator("cron")
    @classmethod
    def _is_a_schedule(cls, cron: str) -> str:
        return six_fields(cron)

    @field_validator("arguments")
    @classmethod
    def _fit_the_form(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            check_arguments(arguments, "arguments")
        except ParameterError as error:
            raise ValueError(str(error).removeprefix("arguments: ")) from None
        return arguments


def read_recurring(path: Path) -> dict[str, RecurringRun]:
    """Read a file of declared recurring runs: name -> declaration.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    declared = {}
    for name, values in read_mapping(path, "file of recurring runs", "another FILE").items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ParameterError(
                f"{path}: {name!r} is no name of a recurring run; expected text of 1 to {_LONGEST_NAME} characters"
            )
        if not isinstance(values, Mapping):
            raise ParameterError(f"{path}: {name} must hold `key: value` lines, not {values!r}")
        declared[name] = RecurringRun.parse(values, f"{path}: {name}")
    return declared


def reconcile(kubeflow: Kubeflow, declared: Mapping[str, RecurringRun], experiment: str, say: Say) -> None:
    """Make the recurring runs of this pipeline those that are declared; others' are left alone.

    Raises:
        KubeflowError: the API server refuses; what was not reached yet is as it was.
    """
    pipeline_id, versions = _pipeline(kubeflow)
    experiment_id = kubeflow.experiment(experiment)
    there = _kept(kubeflow, experiment_id)
    wanted = {
        name: _pin(kubeflow, name, run, there.get(name, []), pipeline_id, versions)
        for name, run in declared.items()
    }
    for name, run in declared.items():
        inputs = inputs_of(wanted[name].pipeline_spec)
        if inputs is not None:
            check_arguments(run.arguments, f"{name}: arguments (of {wanted[name].display_name})", inputs)
    for name, run in declared.items():
        version = wanted[name]
        description = _description(run, kubeflow.service_account)
        old = there.get(name, [])
        same = [
            found
            for found in old
            if found.description == description
            and found.pipeline_version_reference is not None
            and found.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
            and _enabled(found) == run.enabled
        ]
        if same:
            _delete(kubeflow, [found for found in old if found is not same[0]])
            say(f"  {name:<20} unchanged, {version.display_name}")
            continue
        _create(kubeflow, name, run.enabled, _body(run), description, version, experiment_id)
        _delete(kubeflow, old)
        say(f"  {name:<20} {'changed' if old else 'made'}: {run.cron}, {version.display_name}")
    for name, old in there.items():
        if name not in declared:
            _delete(kubeflow, old)
            say(f"  {name:<20} removed: it is not declared any more")


def promote(kubeflow: Kubeflow, version_name: str | None, only: list[str], experiment: str, say: Say) -> None:
    """Move recurring runs to a version of the pipeline.

    Args:
        kubeflow: where.
        version_name: the version; None: the newest.
        only: names of the recurring runs to move; empty: all that no file pins.
        experiment: that they belong to.
        say: takes one line at a time.

    Raises:
        KubeflowError: there is no such version or recurring run, or the API server refuses.
        ParameterError: the version does not take a run's arguments.
    """
    _, versions = _pipeline(kubeflow)
    version = _version(versions, version_name, "promote") if version_name else versions[0]
    experiment_id = kubeflow.experiment(experiment)
    there = _kept(kubeflow, experiment_id)
    if unknown := [name for name in only if name not in there]:
        raise KubeflowError(
            f"there is no recurring run {unknown[0]!r} of `troika recurring` in experiment {experiment}; there "
            f"are {', '.join(there) or 'none'}"
        )
    moved: list[tuple[str, list[Any]]] = []
    for name, found in there.items():
        if only and name not in only:
            continue
        if (found[0].description or "").endswith(_BY_FILE):
            if only:
                raise KubeflowError(f"{name}: its file names the version; change it there, and apply the file")
            say(f"  {name:<20} left alone: its file names the version")
            continue
        moved.append((name, found))
        inputs = inputs_of(version.pipeline_spec)
        if inputs is not None:
            arguments = (found[0].runtime_config.parameters if found[0].runtime_config else None) or {}
            check_arguments(arguments, f"{name}: arguments (of {version.display_name})", inputs)
    names = {entry.pipeline_version_id: entry.display_name for entry in versions}
    for name, found in moved:
        reference = found[0].pipeline_version_reference
        before = names.get(reference.pipeline_version_id if reference else None, "the newest")
        if reference is not None and reference.pipeline_version_id == version.pipeline_version_id:
            _delete(kubeflow, found[1:])
            say(f"  {name:<20} unchanged, {version.display_name}")
            continue
        _create(
            kubeflow, name, _enabled(found[0]), found[0].to_dict(), found[0].description, version, experiment_id
        )
        _delete(kubeflow, found)
        say(f"  {name:<20} {before} -> {version.display_name}")
    if not there:
        say("  there are no recurring runs of `troika recurring`")


def retry_recurring(kubeflow: Kubeflow, experiment: str, say: Say) -> int:
    """Try the newest run of each recurring run once more if it failed by a lost pod; returns how many were.

    Needs no controller: a scheduler of any machine calls it between the runs.
    """
    api = kubeflow.connection
    experiment_id = kubeflow.experiment(experiment)
    runs = api.all(
        say,
        api.runs.run_service_list_runs,
        "runs",
        namespace=api.namespace,
        experiment_id=experiment_id,
        sort_by="created_at desc",
    )
    newest: dict[str, Any] = {}
    for run in runs:
        if run.recurring_run_id and (
            run.recurring_run_id not in newest or made_at(run) > made_at(newest[run.recurring_run_id])
        ):
            newest[run.recurring_run_id] = run
    tried = 0
    for run in newest.values():
        if run.state != "FAILED":
            continue
        say(f"{run.display_name}: failed; {kubeflow.link(run.run_id)}")
        whole = api.call_patiently(say, api.runs.run_service_get_run, run.run_id)
        tried += retry_lost(api, whole, None, say)
    say(f"{tried} of {len(newest)} newest runs of recurring runs tried again")
    return tried


def _pipeline(kubeflow: Kubeflow) -> tuple[str, list[Any]]:
    host, namespace = kubeflow.connection.host, kubeflow.connection.namespace
    pipeline_id = kubeflow.find_pipeline(PIPELINE_NAME)
    versions = kubeflow.versions(pipeline_id) if pipeline_id else []
    if pipeline_id is None or not versions:
        raise KubeflowError(
            f"{host} has no pipeline {PIPELINE_NAME} in namespace {namespace}; `troika submit` uploads it"
        )
    return pipeline_id, versions


def _kept(kubeflow: Kubeflow, experiment_id: str) -> dict[str, list[Any]]:
    """The recurring runs that a file declared, by name, the newest first: an interrupted change leaves two."""
    api = kubeflow.connection
    found: dict[str, list[Any]] = {}
    for run in api.all(
        kubeflow.say,
        api.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=api.namespace,
        experiment_id=experiment_id,
    ):
        if (run.description or "").startswith(_MARK):
            found.setdefault(run.display_name, []).append(run)
    # The later one of an interrupted change is what was wanted; of one second, the one that is listed later.
    return {name: sorted(runs, key=made_at)[::-1] for name, runs in found.items()}


def _enabled(found: Any) -> bool:
    """Return whether an existing recurring run starts runs; a person may have paused it on Kubeflow's pages."""
    return str(found.mode or found.status) in {"ENABLE", "ENABLED"}


def _pin(
    kubeflow: Kubeflow,
    name: str,
    declared: RecurringRun,
    there: list[Any],
    pipeline_id: str,
    versions: list[Any],
) -> Any:
    """The version that a declared run is to have."""
    if declared.version is not None:
        return _version(versions, declared.version, name)
    for found in there:
        reference = found.pipeline_version_reference
        if reference is None or reference.pipeline_id != pipeline_id:
            continue
        for version in versions:
            if version.pipeline_version_id == reference.pipeline_version_id:
                return version
    kubeflow.say(f"  {name:<20} is pinned to the newest version, {versions[0].display_name}")
    return versions[0]


def _version(versions: list[Any], name: str, where: str) -> Any:
    for version in versions:
        if name in {version.display_name, version.pipeline_version_id}:
            return version
    shown = ", ".join(str(version.display_name) for version in versions[:5])
    raise KubeflowError(f"{where}: there is no version {name!r}; the newest are {shown}")


def _description(declared: RecurringRun, service_account: str | None) -> str:
    declaration = declared.model_dump_json(exclude={"version"}) + (service_account or "")
    digest = hashlib.sha256(declaration.encode()).hexdigest()[:12]
    return _MARK + digest + (_BY_FILE if declared.version is not None else "")


def _body(declared: RecurringRun) -> dict[str, Any]:
    return {
        "max_concurrency": str(declared.max_concurrency),
        "trigger": {"cron_schedule": {"cron": declared.cron}},
        "runtime_config": {"parameters": dict(declared.arguments)},
        "no_catchup": True,
    }


def _create(
    kubeflow: Kubeflow,
    name: str,
    enabled: bool,
    body: Mapping[str, Any],
    description: str,
    version: Any,
    experiment_id: str,
) -> None:
    api = kubeflow.connection
    schedule = body["trigger"]["cron_schedule"]
    try:
        made = api.call(
            api.recurring_runs.recurring_run_service_create_recurring_run,
            kfp_server_api.V2beta1RecurringRun(
                display_name=name,
                description=description,
                experiment_id=experiment_id,
                mode="ENABLE" if enabled else "DISABLE",
                no_catchup=bool(body["no_catchup"]),
                max_concurrency=str(body["max_concurrency"]),
                trigger=kfp_server_api.V2beta1Trigger(
                    cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=schedule["cron"])
                ),
                pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
                    pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
                ),
                runtime_config=kfp_server_api.V2beta1RuntimeConfig(
                    parameters=dict(body["runtime_config"]["parameters"])
                ),
                service_account=body.get("service_account") or kubeflow.service_account,
            ),
        )
        api.identity(made, "recurring_run_id")  # else the old one would be deleted for nothing
    except KubeflowError as error:
        done = "it may have been made; the same command again puts it right" if error.transient else "not made"
        raise KubeflowError(f"{name}: {done}, and what was there is as it was: {error}") from None


def _delete(kubeflow: Kubeflow, runs: list[Any]) -> None:
    api = kubeflow.connection
    for run in runs:
        try:
            api.call_patiently(
                kubeflow.say,
                api.recurring_runs.recurring_run_service_delete_recurring_run,
                run.recurring_run_id,
            )
        except KubeflowError as error:
            if error.status != 404:
                raise KubeflowError(
                    f"{run.display_name}: the old one ({run.recurring_run_id}) could not be deleted, and both "
                    f"would start runs: {error}; the same command again deletes it"
                ) from None
