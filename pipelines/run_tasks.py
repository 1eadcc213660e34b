"""Read a run's tasks as the API server shows them: which step stands where, and what can be known of a failure.

A task has a name and a state, and neither its step nor its pod: `executor(0)` may be of any step. Argo's ids of
nodes, which parents name, are hashes of full names such as `RUN.root.train.executor(0)`, so that the names can be
found by trying.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from components.step import STEPS

STEP_NAMES = {name.replace("_", "-") for name in (*STEPS, "summarise", "compare")}
"""As tasks have them; the last two are a sweep's."""
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_ATTEMPT = re.compile(r"\(\d+\)$")


@dataclass(frozen=True)
class Task:
    """One node of a run."""

    name: str
    state: str
    """Empty: it was left out, since the run had ended."""
    started: datetime | None
    children: tuple[str, ...]
    message: str
    """Words of the failure; backends from 2.14 on give none."""

    @property
    def plain_name(self) -> str:
        """The name without the number of an attempt."""
        return _ATTEMPT.sub("", self.name)


@dataclass(frozen=True)
class Failure:
    """What ended a run."""

    step: str
    """Name of the step; `root` for the whole run."""
    driver: bool
    """Whether it was the pod that prepares the step, before the step itself."""
    attempts: int
    pods: tuple[str, ...]
    """Ids of the nodes of its attempts; a pod's name ends as its id does."""
    message: str

    def __str__(self) -> str:
        """Return what failed, without a reason."""
        if self.driver:
            return "the driver of the whole run" if self.step == "root" else f"the driver of {self.step}"
        return self.step


class RunTasks:
    """The tasks of one answer for a run."""

    def __init__(self, run: Any) -> None:
        details = run.run_details.task_details if run.run_details else None
        self.tasks = sorted(
            (
                Task(
                    name=task.display_name,
                    state=str(task.state or ""),
                    started=task.start_time,
                    children=tuple(child.pod_name for child in task.child_tasks or [] if child.pod_name),
                    message=str(task.error.message or "") if task.error is not None else "",
                )
                for task in details or []
                # Records of containers have no name.
                if task.display_name
            ),
            key=lambda task: (task.started.timestamp() if task.started else 0.0, task.name),
        )
        ids = {child for task in self.tasks for child in task.children}
        self.workflow = next(iter(sorted(ids)), "").rpartition("-")[0]
        """Name of the run's Workflow in Kubernetes; empty where it cannot be known."""
        self._ids = ids

    def steps(self) -> list[tuple[str, Task]]:
        """Return the steps that have a state, in the order of their start."""
        return [(task.name, task) for task in self.tasks if task.name in STEP_NAMES and task.state]

    def retries_lost_pods(self) -> bool:
        """Return whether the platform starts lost pods again: its default then gives each node a number."""
        return any(task.name == "root-driver(0)" for task in self.tasks)

    def failures(self) -> list[Failure]:
        """Return what ended the run, first a step, else a driver."""
        failed = [task for task in self.tasks if task.state == "FAILED"]
        found: dict[str, Failure] = {}
        for task in failed:
            if task.name in STEP_NAMES:
                attempts = self.attempts(task.name)
                found[task.name] = Failure(task.name, False, len(attempts), attempts, task.message)
        if not found:
            for task in failed:
                if (name := task.plain_name).endswith("-driver"):
                    pods = self._pods(rf"{re.escape(name)}(\(\d+\))?")
                    found[name] = Failure(name.removesuffix("-driver"), True, len(pods), pods, task.message)
        return list(found.values())

    def attempts(self, step: str) -> tuple[str, ...]:
        """Return the ids of the pods of a step, the first attempt's first."""
        numbered = self._pods(rf"{re.escape(step)}(\(\d+\))?\.executor\(\d+\)")
        return numbered or self._pods(rf"{re.escape(step)}(\(\d+\))?\.executor")

    def from_cache(self, step: Task) -> bool:
        """Return whether a step that succeeded has taken an earlier run's result: then no pod ran for it."""
        return (
            step.state == "SUCCEEDED"
            and not self._pods(rf"{re.escape(step.name)}(\(\d+\))?\.executor\(\d+\)")
            and any(
                task.name == "executor" and task.state == "SKIPPED" and task.started == step.started
                for task in self.tasks
            )
        )

    def waiting(self) -> list[tuple[str, str]]:
        """Return the pods that have not started: name of the step, with its driver told, and the node's id."""
        found: list[tuple[str, str]] = []
        for task in self.tasks:
            if task.state != "PENDING":
                continue
            if task.plain_name.endswith("-driver"):
                pods = self._pods(re.escape(task.name))
                found.append((f"driver of {task.plain_name.removesuffix('-driver')}", pods[-1] if pods else ""))
            elif task.plain_name == "executor":
                found += self._waiting_steps(task)
        return found

    def _waiting_steps(self, executor: Task) -> list[tuple[str, str]]:
        """The steps that an executor which has not started may be of."""
        number = int(executor.name[len("executor(") : -1]) if executor.name != "executor" else 0
        running = [
            (name, task, attempts[-1])
            for name, task in self.steps()
            if task.state == "RUNNING" and len(attempts := self.attempts(name)) == number + 1
        ]
        # A first attempt begins with its step.
        same = [entry for entry in running if entry[1].started == executor.started]
        return [(name, pod) for name, _, pod in same or running]

    def _pods(self, pattern: str) -> tuple[str, ...]:
        names = sorted(
            (name for name in self._names() if re.search(rf"(^|\.){pattern}$", name)),
            key=lambda name: (len(name), name),
        )
        return tuple(self._id(name) for name in names)

    def _names(self) -> set[str]:
        """The full names of all nodes that another one names."""
        shown = {task.name for task in self.tasks}
        names, todo = {self.workflow}, [self.workflow] if self.workflow else []
        while todo:
            name = todo.pop()
            last = name.rpartition(".")[2]
            for other in shown:
                made = [f"{name}.{other}"]
                if other.startswith(f"{last}("):
                    made.append(name + other.removeprefix(last))
                for candidate in made:
                    if candidate not in names and self._id(candidate) in self._ids:
                        names.add(candidate)
                        todo.append(candidate)
        return names

    def _id(self, name: str) -> str:
        """Argo's id of a node: the hash (FNV-1a, 32 bits) of its name."""
        value = 0x811C9DC5
        for byte in name.encode():
            value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
        return f"{self.workflow}-{value}"


def tried_again(run: Any) -> bool:
    """Return whether the API's retry was used for a run before: it had ended, and then went on."""
    states = [str(entry.state or "") for entry in run.state_history or []]
    return any(state in ENDED for state in states[:-1])


def lost_pods(failures: list[Failure], retries: Mapping[str, int] | None) -> list[Failure]:
    """Return those failures whose pod was lost (deleted, evicted, preempted) and did not fail by itself.

    The API server does not tell them apart. But Argo tries a step that failed as often as the package says, and
    one whose pod was lost not at all, unless the platform says so.

    Args:
        failures: see `RunTasks.failures`.
        retries: how often each task may be tried again; None: not known.
    """
    found = []
    for failure in failures:
        allowed = retries.get(failure.step, 0) if retries is not None else int(failure.step != "release-model")
        if not failure.driver and not failure.message and 0 < failure.attempts <= allowed:
            found.append(failure)
    return found
