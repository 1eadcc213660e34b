"""What pods get on a cluster: processors, memory, GPUs, secrets, time-outs, repetition.

Facts of a cluster, not of a model, so they stand in a file of their own, not in params.yaml;
`pipelines/cluster.yaml` is the example. Without such a file, as on a laptop, nothing of this is set.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kfp import dsl, kubernetes
from pydantic import Field, model_validator

from components.step import STEPS
from troika.params import Params, merge, read_mapping

USER = 10001
"""The user of the images that steps run in."""
_QUANTITY = r"^[1-9][0-9]*(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
_FIRST_WAIT_SECONDS, _WAIT_FACTOR = 30, 2
"""Between attempts: 30 s, then twice the last one."""
_PENDING_SECONDS = 24 * 3600
"""How long an attempt may wait for a node; a pod's time-out counts from its start there, the window does not."""
_NEVER_REPEATED = ("release_model",)


class Toleration(Params):
    """A taint that the step's pod puts up with, such as that of GPU nodes."""

    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class StepResources(Params):
    """What the pod of one step gets. Requests are the same as limits, so that a node never promises too much."""

    cpu: str = Field(pattern=_QUANTITY)
    memory: str = Field(pattern=_QUANTITY)
    timeout_seconds: int = Field(gt=0)
    retries: int = Field(ge=0, le=10)
    """After a step whose pod was lost or whose store was away. A lost race of releases stays lost: none there."""
    gpu_type: str = "nvidia.com/gpu"
    gpus: int = Field(default=0, ge=0)
    shared_memory: str | None = Field(default=None, pattern=_QUANTITY)
    """Size of /dev/shm, part of `memory`. The 64 MB of a container kill PyTorch's data workers by a bus error."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    secrets: list[str] = Field(default_factory=list)
    """Names under `secrets` of those that the step may read."""


class Secret(Params):
    """A Kubernetes secret, by name; its values never pass through the pipeline."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    environment: dict[str, str] = Field(default_factory=dict)
    """Key in the secret -> environment variable."""
    mount: str | None = None
    """Folder in which its keys are files."""
    files: dict[str, str] = Field(default_factory=dict)
    """Environment variable -> text in which {mount} stands for that folder, such as `{mount}/cosign.key`."""

    @model_validator(mode="after")
    def _is_used(self) -> "Secret":
        if not self.environment and not self.mount:
            raise ValueError("give environment or mount, else the secret reaches no step")
        if self.files and not self.mount:
            raise ValueError("files needs mount, the folder that they are in")
        return self


class Cluster(Params):
    """Content of a cluster file."""

    image_pull_secrets: list[str]
    secrets: dict[str, Secret]
    training_state: str | None
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
        return self


def read_cluster(path: Path, changes: Mapping[str, Any] | None = None) -> Cluster:
    """Read a cluster file.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    return Cluster.parse(merge(read_mapping(path), changes or {}), str(path))


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
    for name in wanted.secrets if with_secrets else ():
        secret = cluster.secrets[name]
        if secret.environment:
            kubernetes.use_secret_as_env(task, secret.name, dict(secret.environment))
        if secret.mount:
            kubernetes.use_secret_as_volume(task, secret.name, secret.mount)
        for variable, value in secret.files.items():
            task.set_env_variable(variable, value.replace("{mount}", str(secret.mount)))
    if step == "train" and with_state and cluster.training_state:
        kubernetes.mount_pvc(task, cluster.training_state, "/training")
        task.set_env_variable("TROIKA_TRAINING_STATE", "/training")
