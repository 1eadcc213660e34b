"""Follow a run until it has ended: tell each step's state, what it waits for, and why it failed.

A failed run and one whose state could not be read any more are different errors.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.arguments import retries_of
from pipelines.connection import Connection, KubeflowError, LostSightError
from pipelines.run_tasks import ENDED, Failure, RunTasks, lost_pods, tried_again
from pipelines.workloads import Workloads
from troika.errors import TroikaError

Say = Callable[[str], None]
WAITING_SECONDS = 120.0
"""A pod that has not started for so long is told of: it may never start."""
_POLL_SECONDS = 5.0
_BEGIN_AGAIN_SECONDS = 120.0
"""For how long a run that was started again may still be shown as failed."""
_LOST = ("pod deleted", "preempt", "evict", "node is shutting down", "nodelost", "pod was terminated")
_REFUSED_RETRY = (
    "the API server refuses to try the run again ({}); start it anew: unchanged steps come from the cache"
)


class RunFailedError(TroikaError):
    """A run on the cluster has not succeeded."""


def follow(
    connection: Connection,
    run_id: str,
    say: Say,
    *,
    link: str,
    retries: Mapping[str, int] | None = None,
    poll_seconds: float = _POLL_SECONDS,
    retry: bool = True,
) -> Any:
    """Tell each step's state as it changes until the run has ended, and return the run.

    Args:
        connection: to the API server.
        run_id: which run.
        say: takes one line at a time.
        link: the run's page.
        retries: how often the package lets each task be tried again; None: asked of the API server when needed.
        poll_seconds: between two looks.
        retry: try the run once more where a pod was lost and the platform does not start such pods again.

    Raises:
        RunFailedError: it failed or was cancelled.
        LostSightError: its state could not be read for as long as the connection's patience.
    """
    return _Follower(connection, run_id, say, link, retries).watch(poll_seconds, retry)


def retry_lost(connection: Connection, run: Any, retries: Mapping[str, int] | None, say: Say) -> bool:
    """Try a failed run once more if a pod was lost; returns whether that was done. Says why not.

    The API server tries a run again from its failed steps on. It does so once: a second time it refuses.
    """
    tasks = RunTasks(run)
    if tasks.retries_lost_pods():
        return False  # the platform has started lost pods again already: this failure is another
    known = retries if retries is not None else _ask_retries(connection, run)
    lost = _lost(tasks, known, Workloads(connection.namespace))
    if not lost:
        return False
    names = ", ".join(str(failure) for failure in lost)
    if "release-model" in names:
        say(
            f"  {names}: its pod was lost; it is not tried again by itself, since it may have released: look at "
            "`troika releases`"
        )
        return False
    if tried_again(run):
        say(f"  {names}: a pod was lost again, and the run has been tried again before; the API does so once")
        return False
    say(f"  {names}: its pod was lost (deleted, evicted or preempted); the run is tried again, once")
    asked_before = False

    def again() -> None:
        nonlocal asked_before
        # Where the answer was lost, the run may go on already; a second retry would be refused.
        if asked_before:
            found = connection.call(connection.runs.run_service_get_run, str(run.run_id))
            if found.state not in ENDED or tried_again(found):
                return
        asked_before, twice = True, asked_before
        try:
            connection.call(connection.runs.run_service_retry_run, str(run.run_id))
        except KubeflowError as error:
            if not (twice and error.status == 500):
                raise

    try:
        connection.patiently(say, again)
    except KubeflowError as error:
        say("  " + _REFUSED_RETRY.format(error))
        return False
    return True


class _Follower:
    """State of one run while it is followed."""

    def __init__(
        self, connection: Connection, run_id: str, say: Say, link: str, retries: Mapping[str, int] | None
    ) -> None:
        self._connection, self._run_id, self._say, self._link = connection, run_id, say, link
        self._retries = retries
        self._workloads = Workloads(connection.namespace)
        self._states: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._waits: dict[str, _Wait] = {}
        self._seen = False
        self._now = 0.0
        """Seconds that were slept: those of the clock where nothing else took time."""

    def watch(self, poll_seconds: float, retry: bool) -> Any:
        ended_before: Any = None
        retried, retried_at = False, 0.0
        while True:
            run = self._read()
            tasks = RunTasks(run)
            # The answer may still be that of before the run was tried again.
            stale = (
                retried
                and run.state in ENDED
                and run.finished_at == ended_before
                and self._now - retried_at < _BEGIN_AGAIN_SECONDS
            )
            if not stale:
                self._tell_steps(tasks)
            if run.state in ENDED and not stale:
                if run.state == "SUCCEEDED":
                    return run
                again = retry and run.state == "FAILED" and not retried
                if again and retry_lost(self._connection, run, self._retries, self._say):
                    retried, ended_before, retried_at = True, run.finished_at, self._now
                    self._states.clear()
                    self._attempts.clear()
                else:
                    raise RunFailedError(self._failure(run, tasks))
            elif not stale:
                self._tell_waiting(run, tasks)
            time.sleep(poll_seconds)
            self._now += poll_seconds

    def _read(self) -> Any:
        try:
            run = self._connection.call_patiently(
                self._say, self._connection.runs.run_service_get_run, self._run_id
            )
            self._connection.identity(run, "run_id")
        except KubeflowError as error:
            if error.status == 404 and not error.foreign:
                if self._seen:
                    raise RunFailedError(f"the run is gone, as when somebody deletes it: {error}") from None
                raise
            if not self._seen and not error.transient:
                raise LostSightError(f"the run's state cannot be read: {error}", status=error.status) from None
            raise LostSightError(
                f"lost sight of the run, which may well go on: {error}\n"
                f"  `troika follow {self._run_id}` follows it again; its page: {self._link}",
                status=error.status,
            ) from None
        self._seen = True
        return run

    def _tell_steps(self, tasks: RunTasks) -> None:
        for name, task in tasks.steps():
            attempts = len(tasks.attempts(name))
            again = attempts > max(self._attempts.get(name, 1), 1)
            self._attempts[name] = attempts
            if self._states.get(name) != task.state:
                self._states[name] = task.state
                cached = ", from the cache" if tasks.from_cache(task) else ""
                self._say(f"  {name:<14} {task.state.lower()}{cached}")
            if again and task.state == "RUNNING":
                self._say(f"  {name:<14} attempt {attempts}: the one before it failed or its pod was lost")
            if task.state == "FAILED" and task.message:
                self._say(f"  {'':<14} {task.message}")

    def _tell_waiting(self, run: Any, tasks: RunTasks) -> None:
        waiting = tasks.waiting()
        if not tasks.tasks and run.state in {"PENDING", None}:
            waiting = [("the run", "")]
        for key in set(self._waits) - {f"{step}{pod}" for step, pod in waiting}:
            del self._waits[key]
        for step, pod in waiting:
            wait = self._waits.setdefault(f"{step}{pod}", _Wait(self._now))
            waited = max(self._now - wait.since, self._server_waited(tasks, step))
            if waited < WAITING_SECONDS:
                continue
            words = self._words(tasks, pod)
            if wait.told != words:
                wait.told = words
                self._say(f"  {step:<14} has waited for {waited / 60:.0f} min for its pod to start")
                for line in words:
                    self._say(f"  {'':<14} {line}")

    def _server_waited(self, tasks: RunTasks, step: str) -> float:
        """Seconds since the step began by the server's clock, if its only attempt has not begun."""
        for name, task in tasks.steps():
            if name == step and task.started is not None and len(tasks.attempts(name)) <= 1:
                return (self._connection.server_time() - task.started).total_seconds()
        return 0.0

    def _words(self, tasks: RunTasks, pod: str) -> list[str]:
        namespace = self._connection.namespace
        if not pod:
            return [
                "Argo's workflow controller has not taken it up: `kubectl -n kubeflow get pods "
                f"-l app=workflow-controller`, `kubectl -n {namespace} get workflows`"
            ]
        events = self._workloads.pod_events(tasks.workflow, pod)
        if events:
            return [events[-1]]
        nodes = self._workloads.node_messages(tasks.workflow)
        if nodes and nodes.get(pod, ("", ""))[1]:
            return [nodes[pod][1]]
        return [f"why: {_events_command(namespace, tasks.workflow, pod)}"]

    def _failure(self, run: Any, tasks: RunTasks) -> str:
        failures = tasks.failures()
        names = ", ".join(str(failure) for failure in failures)
        lines = [
            f"the run ended as {str(run.state).lower()}{f' in {names}' if names else ''}; its logs: {self._link}"
        ]
        if run.error is not None and run.error.message:
            lines.append(f"  {run.error.message}")
        if str(run.state) == "FAILED":
            nodes = self._workloads.node_messages(tasks.workflow) if tasks.workflow else None
            for failure in failures:
                lines += [f"  {failure}: {line}" for line in self._reasons(tasks, failure, nodes)]
            if not failures:
                lines.append(
                    f"  no step failed by itself; why: {_nodes_command(self._connection.namespace, self._run_id)}"
                )
        return "\n".join(lines)

    def _reasons(
        self, tasks: RunTasks, failure: Failure, nodes: Mapping[str, tuple[str, str]] | None
    ) -> list[str]:
        found = []
        if failure.attempts > 1:
            found.append(f"failed {failure.attempts} times")
        if failure.message:
            return [*found, failure.message]
        pod = failure.pods[-1] if failure.pods else ""
        message = nodes.get(pod, ("", ""))[1] if nodes and pod else ""
        events = self._workloads.pod_events(tasks.workflow, pod) if pod else None
        if message:
            found.append(message)
        found += [event for event in (events or [])[-2:] if not event.startswith(_QUIET_EVENTS)]
        if message or events:
            return found
        if lost_pods([failure], self._retries):
            found.append(
                "its only attempt ended and was not tried again, as when a pod is deleted, evicted or preempted"
            )
        elif failure.driver:
            found.append(
                "Kubeflow's own pod before the step failed; the account of runs and its token are suspects"
            )
        found.append(f"why: {_nodes_command(self._connection.namespace, self._run_id)}")
        if pod:
            found.append(f"     {_events_command(self._connection.namespace, tasks.workflow, pod)}")
        return found


_QUIET_EVENTS = ("Pulled", "Created", "Started", "Scheduled", "Pulling")


class _Wait:
    """A pod that has not started."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.told: list[str] | None = None


def _lost(tasks: RunTasks, retries: Mapping[str, int] | None, workloads: Workloads) -> list[Failure]:
    """The failures by a lost pod: by Argo's words where they can be read, else by what the API shows."""
    failures = tasks.failures()
    nodes = workloads.node_messages(tasks.workflow) if tasks.workflow and failures else None
    if not nodes:
        return lost_pods(failures, retries)
    found = []
    for failure in failures:
        phase, message = nodes.get(failure.pods[-1], ("", "")) if failure.pods else ("", "")
        if phase == "Error" and any(word in message.lower() for word in _LOST):
            found.append(failure)
    return found


def _ask_retries(connection: Connection, run: Any) -> dict[str, int] | None:
    """Return how often the package lets tasks be tried again; None where the API server does not show it."""
    reference = run.pipeline_version_reference
    if reference is None or not reference.pipeline_version_id:
        return None
    try:
        version = connection.call(
            connection.pipelines.pipeline_service_get_pipeline_version,
            reference.pipeline_id,
            reference.pipeline_version_id,
        )
    except KubeflowError:
        return None
    return retries_of(version.pipeline_spec) if isinstance(version.pipeline_spec, Mapping) else None


def _events_command(namespace: str, workflow: str, pod: str) -> str:
    return f"kubectl -n {namespace} get events | grep -e {workflow} | grep -e {pod.rpartition('-')[2]}"


def _nodes_command(namespace: str, run_id: str) -> str:
    columns = r'{.phase}{"\t"}{.displayName}{"\t"}{.message}{"\n"}'
    return (
        f"kubectl -n {namespace} get workflows -l pipeline/runid={run_id} "
        f"-o jsonpath='{{range .items[*].status.nodes.*}}{columns}{{end}}'"
    )
