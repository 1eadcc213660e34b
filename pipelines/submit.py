"""Hand the pipeline to a Kubeflow: upload a version of it and start a run.

A version is named by its content and belongs to one namespace: another user's pipeline of this name is another.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml

from pipelines.arguments import without_cache
from pipelines.connection import PATIENCE_SECONDS, Connection, KubeflowError
from troika.errors import ParameterError


@dataclass(frozen=True)
class Uploaded:
    """A version of the pipeline on a cluster."""

    pipeline_id: str
    version_id: str
    name: str
    new: bool
    """False: the very same version was there."""
    newest: str
    """Name of the version that was uploaded last."""


class Kubeflow:
    """The pipelines and runs of one namespace.

    Args:
        host: URL of Kubeflow Pipelines, such as http://localhost:8080 or https://kubeflow.example/pipeline.
        namespace: where pipelines, runs and recurring runs are made.
        service_account: as which pods run; None: as Kubeflow has it.
        token_file: see `Connection`, as for the rest.
        say: takes one line at a time for the person at the terminal.

    Raises:
        KubeflowError: it does not answer, or is not Kubeflow Pipelines.
    """

    def __init__(
        self,
        host: str,
        namespace: str,
        service_account: str | None = None,
        *,
        token_file: Path | None = None,
        ca: Path | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        say: Callable[[str], None] = print,
    ) -> None:
        self.connection = Connection(host, namespace, token_file, ca, patience_seconds, say)
        self.service_account = service_account
        self.say = say

    def find_pipeline(self, name: str) -> str | None:
        """Return the id of the namespace's pipeline of this name; None: it has none.

        Raises:
            KubeflowError: there are several.
        """
        api = self.connection
        found = [
            pipeline
            for pipeline in api.all(
                self.say, api.pipelines.pipeline_service_list_pipelines, "pipelines", namespace=api.namespace
            )
            if name in {pipeline.display_name, pipeline.name}
            and (pipeline.namespace == api.namespace or not (pipeline.namespace or api.multi_user))
        ]
        if len(found) > 1:
            ids = ", ".join(str(pipeline.pipeline_id) for pipeline in found)
            raise KubeflowError(
                f"{api.host}: namespace {api.namespace} has {len(found)} pipelines named {name} ({ids}); delete "
                "all but one, so that nobody starts another's by mistake"
            )
        return str(found[0].pipeline_id) if found else None

    def versions(self, pipeline_id: str) -> list[Any]:
        """Return the versions of a pipeline, the newest first."""
        api = self.connection
        found = api.all(
            self.say,
            api.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline_id,
        )
        # The list is in the order of their making; of two within a second the later one is newer.
        return sorted(found, key=made_at)[::-1]

    def upload(self, package: Path, name: str, pipeline: str) -> Uploaded:
        """Upload a package as a version of a pipeline; nothing happens if it is there.

        Args:
            package: a compiled package.
            name: of the version, made of its content.
            pipeline: name of the pipeline, which is made if the namespace has none.
        """
        return self.connection.patiently(self.say, lambda: self._upload(package, name, pipeline))  # type: ignore[no-any-return]

    def _upload(self, package: Path, name: str, pipeline: str) -> Uploaded:
        api = self.connection
        pipeline_id = self.find_pipeline(pipeline) or self._make_pipeline(pipeline)
        there = self.versions(pipeline_id)
        for version in there:
            if name in {version.display_name, version.name}:
                newest = str(there[0].display_name)
                return Uploaded(
                    pipeline_id, api.identity(version, "pipeline_version_id"), name, new=False, newest=newest
                )
        made = api.call(api.uploads.upload_pipeline_version, str(package), name=name, pipelineid=pipeline_id)
        return Uploaded(pipeline_id, api.identity(made, "pipeline_version_id"), name, new=True, newest=name)

    def _make_pipeline(self, name: str) -> str:
        """Make a pipeline without a version; the SDK's way makes a version of the pipeline's name, too."""
        api = self.connection
        made = api.call(
            api.pipelines.pipeline_service_create_pipeline,
            kfp_server_api.V2beta1Pipeline(display_name=name, name=name, namespace=api.namespace),
        )
        return api.identity(made, "pipeline_id")

    def experiment(self, name: str) -> str:
        """Return the id of the namespace's experiment of this name, which is made if there is none."""
        api = self.connection

        def find() -> str:
            for found in api.all(
                self.say,
                api.experiments.experiment_service_list_experiments,
                "experiments",
                namespace=api.namespace,
            ):
                if found.display_name == name and found.storage_state != "ARCHIVED":
                    return str(found.experiment_id)
            made = api.call(
                api.experiments.experiment_service_create_experiment,
                kfp_server_api.V2beta1Experiment(display_name=name, namespace=api.namespace),
            )
            return api.identity(made, "experiment_id")

        return str(api.patiently(self.say, find))

    def start(
        self,
        version: Uploaded,
        arguments: Mapping[str, Any],
        experiment: str,
        fresh_package: Path | None = None,
    ) -> str:
        """Start one run, even where the connection drops in between; returns its id.

        Args:
            version: what is started.
            arguments: of the run form.
            experiment: name of the group that the run belongs to.
            fresh_package: the version's package, to start it with no task taking an earlier run's result.
        """
        api = self.connection
        experiment_id = self.experiment(experiment)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        # Found again by this name if the answer to its start is lost.
        name = f"{version.name} {stamp} {secrets.token_hex(3)}"
        reference = kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        )
        wanted = kfp_server_api.V2beta1Run(
            experiment_id=experiment_id,
            display_name=name,
            # The API has no switch for the cache, so such a run brings its own specification.
            pipeline_spec=None if fresh_package is None else _uncached(fresh_package),
            pipeline_version_reference=reference if fresh_package is None else None,
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(arguments)),
            service_account=self.service_account,
        )
        asked_before = False

        def start() -> str:
            nonlocal asked_before
            if asked_before:
                newest = api.call(
                    api.runs.run_service_list_runs,
                    namespace=api.namespace,
                    experiment_id=experiment_id,
                    sort_by="created_at desc",
                    page_size=50,
                )
                for run in newest.runs or []:
                    if run.display_name == name:
                        return str(run.run_id)
            asked_before = True
            return api.identity(api.call(api.runs.run_service_create_run, wanted), "run_id")

        return str(api.patiently(self.say, start))

    def link(self, run_id: str) -> str:
        """Return the URL of the run's page."""
        return f"{self.connection.host}/#/runs/details/{run_id}"


def made_at(entry: Any) -> float:
    """Return when a version or a run was made, in seconds; 0 where the API server does not say."""
    return float(entry.created_at.timestamp()) if entry.created_at is not None else 0.0


def _uncached(package: Path) -> dict[str, Any]:
    documents = list(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    if not documents or not isinstance(documents[0], dict):
        raise ParameterError(f"{package}: is not a compiled package")
    return without_cache(documents)
