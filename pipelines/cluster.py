"""What pods get on a cluster: processors, memory, GPUs, secrets, time-outs, repetition.

Facts of a cluster, not of a model, so they stand in a file of their own, not in params.yaml;
`pipelines/cluster.yaml` is the example. Without such a file, as on a laptop, nothing of this is set.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kfp import dsl, kubernetes
from pydantic import Field, field_validator, model_validator

from components.step import STEP_ENVIRONMENT, STEPS
from pipelines.kubernetes_rules import (
    OWNED_VOLUMES,
    Cpu,
    DnsLabel,
    DnsSubdomain,
    ExtendedResource,
    LabelKey,
    LabelValue,
    Memory,
    MountPath,
    SecretKey,
    Size,
    VariableName,
    quantity,
    within,
)
from pipelines.package import check_values
from troika.params import Params, merge, read_mapping

USER = 10001
"""The user of the images that steps run in."""
_LONGEST_SECONDS = 365 * 24 * 3600
_TRAINING_FOLDER = "/training"
_FIRST_WAIT_SECONDS, _WAIT_FACTOR = 30, 2
"""Between attempts: 30 s, then twice the last one."""
_PENDING_SECONDS = 24 * 3600
"""How long an attempt may wait for a node; a pod's time-out counts from its start there, the window does not."""
_NEVER_REPEATED = ("release_model",)


class Toleration(Params):
    """A taint that the step's pod puts up with, such as that of GPU nodes."""

    key: LabelKey | None = None
    """None: every taint."""
    operator: Literal["Equal", "Exists"] = "Exists"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _can_be_met(self) -> "Toleration":
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value; leave value out, or write operator: Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator Equal needs a key")
        return self


class StepResources(Params):
    """What the pod of one step gets. Requests are the same as limits, so that a node never promises too much."""

    cpu: Cpu
    memory: Memory
    timeout_seconds: int = Field(gt=0, le=_LONGEST_SECONDS)
    retries: int = Field(ge=0, le=10)
    """After a step whose pod was lost or whose store was away. A lost race of releases stays lost: none there."""
    gpu_type: ExtendedResource = "nvidia.com/gpu"
    gpus: int = Field(default=0, ge=0, le=1024)
    shared_memory: Size | None = None
    """Size of /dev/shm, part of `memory`. The 64 MB of a container kill PyTorch's data workers by a bus error."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    secrets: list[str] = Field(default_factory=list)
    """Names under `secrets` of those that the step may read."""

    @model_validator(mode="after")
    def _shares_memory_that_it_has(self) -> "StepResources":
        if self.shared_memory and quantity(self.shared_memory) > quantity(self.memory):
            raise ValueError(f"shared_memory {self.shared_memory} is part of memory, which is {self.memory}")
        return self


class Secret(Params):
    """A Kubernetes secret, by name; its values never pass through the pipeline.

    It is mounted, and the step's own process reads it and sets the variables: Kubeflow's launcher, which runs in
    the same container and heeds AWS_* and GOOGLE_* itself, must not see them.
    """

    name: DnsLabel
    environment: dict[SecretKey, VariableName] = Field(default_factory=dict)
    """Key in the secret -> environment variable of the step."""
    mount: MountPath | None = None
    """Folder in which its keys are files; by default /secrets/ and its name in this file."""
    files: dict[VariableName, str] = Field(default_factory=dict)
    """Environment variable -> text in which {mount} stands for that folder, such as `{mount}/cosign.key`."""

    @model_validator(mode="after")
    def _is_used(self) -> "Secret":
        if not self.environment and not self.mount and not self.files:
            raise ValueError("give environment, files or mount, else the secret reaches no step")
        variables = [*self.environment.values(), *self.files]
        if twice := [name for name in variables if variables.count(name) > 1]:
            raise ValueError(f"the variable {twice[0]} is set twice")
        return self

    def variables(self, folder: str) -> dict[str, dict[str, str]]:
        """Return what `components.step` makes the step's variables of: name -> a file to read, or a text."""
        read = {variable: {"file": f"{folder}/{key}"} for key, variable in self.environment.items()}
        return read | {name: {"text": text.replace("{mount}", folder)} for name, text in self.files.items()}


class Cluster(Params):
    """Content of a cluster file."""

    image_pull_secrets: list[DnsSubdomain]
    secrets: dict[SecretKey, Secret]
    training_state: DnsLabel | None
    """Name of a PersistentVolumeClaim on which a training that was preempted goes on; null: it starts anew."""
    training_state_access: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"] = "ReadWriteOnce"
    """Access mode of that claim. Pods on two nodes wait for each other for ever unless it is ReadWriteMany."""
    steps: dict[str, StepResources]

    @property
    def keeps_states_at_once(self) -> bool:
        """Whether trainings at the same time may keep their states on the claim."""
        return self.training_state_access == "ReadWriteMany"

    @model_validator(mode="after")
    def _fits_the_graph(self) -> "Cluster":
        if set(self.steps) != set(STEPS):
            raise ValueError(f"steps must be exactly {', '.join(STEPS)}, got {', '.join(self.steps) or 'none'}")
        for name, step in self.steps.items():
            if unknown := [secret for secret in step.secrets if secret not in self.secrets]:
                raise ValueError(f"steps.{name}.secrets: {unknown[0]!r} is not under secrets")
            if step.retries and name in _NEVER_REPEATED:
                raise ValueError(
                    f"steps.{name}.retries must be 0: what it answers does not change by asking again"
                )
            self._check_secrets_of(name, step)
        if len(set(self.image_pull_secrets)) < len(self.image_pull_secrets):
            raise ValueError("image_pull_secrets: one is named twice")
        return self

    @field_validator("training_state")
    @classmethod
    def _is_no_other_volume(cls, name: str | None) -> str | None:
        if name in OWNED_VOLUMES:
            raise ValueError(f"the pod has another volume that is named {name}")
        return name

    def _check_secrets_of(self, step: str, wanted: StepResources) -> None:
        """Raise ValueError where a pod would have two volumes of a name, one in another, or a variable twice."""
        volumes = set(OWNED_VOLUMES) | ({self.training_state} if self.training_state else set())
        folders: list[str] = []
        variables: set[str] = set()
        for name in wanted.secrets:
            secret, folder = self.secrets[name], self.folder(name)
            where = f"steps.{step}.secrets: {name}"
            if secret.name in volumes:
                raise ValueError(f"{where}: the pod has another volume that is named {secret.name}")
            for other in folders:
                if within(folder, other) or within(other, folder):
                    raise ValueError(f"{where}: mounted at {folder}, where another secret is ({other})")
            if twice := variables & set(secret.variables(folder)):
                raise ValueError(f"{where}: another secret sets {', '.join(sorted(twice))} too")
            volumes.add(secret.name)
            folders.append(folder)
            variables |= set(secret.variables(folder))

    def folder(self, name: str) -> str:
        """Return where a secret is mounted, by its name in this file."""
        return self.secrets[name].mount or f"/secrets/{name}"


def read_cluster(path: Path, changes: Mapping[str, Any] | None = None) -> Cluster:
    """Read a cluster file.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    values = merge(read_mapping(path, "cluster file", "--cluster FILE"), changes or {})
    check_values(values, str(path))
    return Cluster.parse(values, str(path))


def retry_window_seconds(step: StepResources) -> int:
    """Return the time from the first attempt's start in which Argo may start another and let it run to its end.

    KFP's `backoff_max_duration` is Argo's `backoff.maxDuration`: the end of all attempts, not the longest wait.
    """
    waits = _FIRST_WAIT_SECONDS * sum(int(_WAIT_FACTOR**number) for number in range(step.retries))
    return (step.retries + 1) * (step.timeout_seconds + _PENDING_SECONDS) + waits


def apply(
    task: dsl.PipelineTask,
    cluster: Cluster,
    step: str | None = None,
    *,
    with_secrets: bool = True,
    with_state: bool = True,
) -> None:
    """Set all that the cluster file says for a step.

    Args:
        task: what gets it.
        cluster: the file's content.
        step: the step whose settings these are; by default the task's own.
        with_secrets: whether the task may read the step's secrets.
        with_state: whether a training keeps its state on the claim.
    """
    step = step or task.name.replace("-", "_")
    wanted = cluster.steps[step]
    task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
    task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if wanted.retries:
        task.set_retry(
            wanted.retries,
            backoff_duration=f"{_FIRST_WAIT_SECONDS}s",
            backoff_factor=_WAIT_FACTOR,
            backoff_max_duration=f"{retry_window_seconds(wanted)}s",
        )
    if wanted.gpus:
        task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpus)
    kubernetes.set_timeout(task, wanted.timeout_seconds)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.image_pull_secrets)
    if wanted.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", wanted.shared_memory)  # noqa: S108
    for key, value in wanted.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in wanted.tolerations:
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value, toleration.effect)
    variables: dict[str, dict[str, str]] = {}
    for name in wanted.secrets if with_secrets else ():
        secret, folder = cluster.secrets[name], cluster.folder(name)
        kubernetes.use_secret_as_volume(task, secret.name, folder)
        variables |= secret.variables(folder)
    if variables:
        task.set_env_variable(STEP_ENVIRONMENT, json.dumps(variables, sort_keys=True))
    if step == "train" and with_state and cluster.training_state:
        kubernetes.mount_pvc(task, cluster.training_state, _TRAINING_FOLDER)
        task.set_env_variable("TROIKA_TRAINING_STATE", _TRAINING_FOLDER)
