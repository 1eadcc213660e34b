"""Hand the pipeline to a Kubeflow: upload a version, start a run and follow it, keep recurring runs as declared.

Talks to Kubeflow Pipelines through its SDK, whose own environment variables and credentials hold
(`KF_PIPELINES_ENDPOINT`, `ML_PIPELINE_...`); a token may stand in `TROIKA_KUBEFLOW_TOKEN`.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from pydantic import Field, model_validator

from components.step import STEPS
from pipelines.compile import version_name
from pipelines.graph import PIPELINE_NAME
from troika.errors import ParameterError, TroikaError
from troika.params import Params, read_mapping

_PAGE = 100
_MARK = "Kept by `troika recurring`; declaration "
"""How a recurring run that is declared in a file is told from one that somebody made by hand."""
_ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


class KubeflowError(TroikaError):
    """Kubeflow Pipelines cannot be reached, or refuses."""


class RunFailedError(TroikaError):
    """A run on the cluster has not succeeded."""


@dataclass(frozen=True)
class Uploaded:
    """A version of the pipeline on a cluster."""

    pipeline_id: str
    version_id: str
    name: str
    new: bool
    """False: the very same version was there."""


class RecurringRun(Params):
    """One declared recurring run."""

    cron: str = Field(pattern=r"^\S+( \S+){5}$")
    """Six fields, seconds first, as Kubeflow has it: `0 0 2 * * *` is every night at two."""
    arguments: dict[str, Any]
    """Values of the run form."""
    enabled: bool = True
    max_concurrency: int = Field(default=1, ge=1, le=10)

    @model_validator(mode="after")
    def _says_where_to_release(self) -> "RecurringRun":
        missing = [name for name in ("store", "release_remote", "environment") if name not in self.arguments]
        if missing:
            raise ValueError(f"arguments: {', '.join(missing)} must be given: the form has no default for it")
        return self


class Kubeflow:
    """A Kubeflow Pipelines.

    Args:
        host: its URL, such as http://localhost:8080 or https://kubeflow.example/pipeline.
        namespace: the user's, on a Kubeflow with many; where runs are made.
        service_account: as which pods run; None: as Kubeflow has it.

    Raises:
        KubeflowError: it does not answer.
    """

    def __init__(self, host: str, namespace: str, service_account: str | None = None) -> None:
        self._host, self._namespace = host.rstrip("/"), namespace
        self._service_account = service_account
        with _told(self._host), warnings.catch_warnings():
            # Each client, even of the right version, warns that it is none for Kubeflow 1.
            warnings.simplefilter("ignore", FutureWarning)
            self._client = kfp.Client(
                host=self._host, namespace=namespace, existing_token=os.environ.get("TROIKA_KUBEFLOW_TOKEN")
            )
            self._client.get_kfp_healthz()

    def upload(self, package: Path) -> Uploaded:
        """Upload a package as a version that is named by its content; nothing happens if it is there."""
        name = version_name(package)
        with _told(self._host):
            pipeline_id = self._client.get_pipeline_id(PIPELINE_NAME)
            if pipeline_id is None:
                self._client.upload_pipeline(str(package), pipeline_name=PIPELINE_NAME)
                pipeline_id = self._client.get_pipeline_id(PIPELINE_NAME)
            found = self._all(self._client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id)
            for version in found:
                if version.display_name == name:
                    return Uploaded(pipeline_id, version.pipeline_version_id, name, new=False)
            made = self._client.upload_pipeline_version(str(package), name, pipeline_id=pipeline_id)
            return Uploaded(pipeline_id, made.pipeline_version_id, name, new=True)

    def start(self, version: Uploaded, arguments: Mapping[str, Any], experiment: str) -> str:
        """Start a run; returns its id."""
        with _told(self._host):
            where = self._client.create_experiment(experiment, namespace=self._namespace)
            run = self._client.run_pipeline(
                where.experiment_id,
                f"{version.name} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}",
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                service_account=self._service_account,
            )
            return str(run.run_id)

    def link(self, run_id: str) -> str:
        """The run's page."""
        return f"{self._host}/#/runs/details/{run_id}"

    def follow(self, run_id: str, say: Callable[[str], None], poll_seconds: float = 5.0) -> None:
        """Tell each step's state as it changes, until the run has ended.

        Raises:
            RunFailedError: it failed or was cancelled.
        """
        states: dict[str, str] = {}
        while True:
            with _told(self._host):
                run = self._client.get_run(run_id)
            tasks = (run.run_details.task_details if run.run_details else None) or []
            for task in tasks:
                name, state = task.display_name or "", task.state or ""
                if name.replace("-", "_") in STEPS and states.get(name) != state:
                    states[name] = state
                    say(f"  {name:<14} {state.lower()}")
                    if state == "FAILED" and task.error is not None and task.error.message:
                        say(f"  {'':<14} {task.error.message}")
            if run.state in _ENDED:
                if run.state != "SUCCEEDED":
                    failed = [name for name, state in states.items() if state == "FAILED"]
                    raise RunFailedError(
                        f"the run ended as {run.state.lower()}"
                        + (f" in {', '.join(failed)}" if failed else "")
                        + f"; its logs: {self.link(run_id)}"
                    )
                return
            time.sleep(poll_seconds)

    def reconcile(self, declared: Mapping[str, RecurringRun], experiment: str, say: Callable[[str], None]) -> None:
        """Make the recurring runs of this pipeline those that are declared; others' are left alone.

        Each follows the newest version of the pipeline by itself: it names none.
        """
        with _told(self._host):
            pipeline_id = self._client.get_pipeline_id(PIPELINE_NAME)
            if pipeline_id is None:
                raise KubeflowError(f"{self._host} has no pipeline {PIPELINE_NAME}; `troika submit` uploads it")
            where = self._client.create_experiment(experiment, namespace=self._namespace)
            there = {
                run.display_name: run
                for run in self._all(
                    self._client.list_recurring_runs, "recurring_runs", experiment_id=where.experiment_id
                )
                if (run.description or "").startswith(_MARK)
            }
            for name, run in there.items():
                if name not in declared:
                    self._client.delete_recurring_run(run.recurring_run_id)
                    say(f"  {name:<20} removed: it is not declared any more")
            for name, wanted in declared.items():
                declaration = wanted.model_dump_json() + (self._service_account or "")
                description = _MARK + hashlib.sha256(declaration.encode()).hexdigest()[:12]
                if name in there and there[name].description == description:
                    say(f"  {name:<20} unchanged")
                    continue
                if name in there:
                    self._client.delete_recurring_run(there[name].recurring_run_id)
                self._create(name, wanted, description, pipeline_id, where.experiment_id)
                say(f"  {name:<20} {'changed' if name in there else 'made'}: {wanted.cron}")

    def _create(
        self, name: str, wanted: RecurringRun, description: str, pipeline_id: str, experiment_id: str
    ) -> None:
        # The SDK's own method wants a version, and would stay with that one.
        self._client._recurring_run_api.recurring_run_service_create_recurring_run(
            recurring_run=kfp_server_api.V2beta1RecurringRun(
                display_name=name,
                description=description,
                experiment_id=experiment_id,
                mode="ENABLE" if wanted.enabled else "DISABLE",
                no_catchup=True,
                max_concurrency=wanted.max_concurrency,
                trigger=kfp_server_api.V2beta1Trigger(
                    cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=wanted.cron)
                ),
                pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=pipeline_id),
                runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(wanted.arguments)),
                service_account=self._service_account,
            )
        )

    @staticmethod
    def _all(method: Callable[..., Any], what: str, **arguments: Any) -> list[Any]:
        """All pages of a list."""
        found: list[Any] = []
        token = ""
        while True:
            answer = method(page_token=token, page_size=_PAGE, **arguments)
            found += getattr(answer, what) or []
            token = answer.next_page_token or ""
            if not token:
                return found


def read_recurring(path: Path) -> dict[str, RecurringRun]:
    """Read a file of declared recurring runs: name -> declaration.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    declared = {}
    for name, values in read_mapping(path).items():
        if not isinstance(values, Mapping):
            raise ParameterError(f"{path}: {name} must hold `key: value` lines, not {values!r}")
        declared[name] = RecurringRun.parse(values, f"{path}: {name}")
    return declared


@contextmanager
def _told(host: str) -> Iterator[None]:
    """Turn what the SDK raises into one line."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        said = str(error.reason or "")
        with suppress(ValueError, TypeError, AttributeError):
            said = json.loads(error.body)["error_details"] or said
        hint = "; is TROIKA_KUBEFLOW_TOKEN right?" if error.status in {401, 403} else ""
        raise KubeflowError(f"{host} answered {error.status}: {said}{hint}") from None
    except (urllib3.exceptions.HTTPError, OSError, TimeoutError) as error:
        raise KubeflowError(
            f"{host} does not answer as Kubeflow Pipelines does ({type(error).__name__}); is the URL right, is "
            "there a login in front of it, is port-forwarding on?"
        ) from None
