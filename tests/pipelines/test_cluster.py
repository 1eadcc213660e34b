"""What pods get on a cluster: all of it visible in the compiled package, and nothing secret there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import REPOSITORY

from components.step import read_sections
from pipelines.cluster import read_cluster
from pipelines.compile import compile_manifests, compile_pipeline
from pipelines.sweep import compile_sweep, read_sweep
from troika.errors import ParameterError
from troika.params import parse_assignments

FILE = REPOSITORY / "pipelines" / "cluster.yaml"
IMAGE = "registry.test/troika-train@sha256:00"
STEPS = {
    "prepare-data", "train", "export-model", "train-evaluator", "find-champion", "evaluate", "publish-model",
    "release-model",
}  # fmt: skip


def compiled(folder: Path, *changes: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Text of the package, its containers by step, and their Kubernetes settings by step."""
    path = folder / "pipeline.yaml"
    sections = read_sections(REPOSITORY / "params.yaml")
    compile_pipeline(path, IMAGE, sections, read_cluster(FILE, parse_assignments(list(changes))))
    graph, platform = yaml.safe_load_all(path.read_text())
    executors = graph["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return path.read_text(), *(
        {name.removeprefix("exec-"): value for name, value in found.items()} for found in (executors, settings)
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return compiled(tmp_path_factory.mktemp("package"))


def tasks(text: str) -> dict[str, Any]:
    graph = next(yaml.safe_load_all(text))
    found = dict(graph["root"]["dag"]["tasks"])
    found |= graph["components"]["comp-condition-1"]["dag"]["tasks"]
    return {name: task for name, task in found.items() if name in STEPS}


def test_no_pod_is_without_limits_and_requests_equal_them(package: tuple[str, Any, Any]) -> None:
    _, containers, _ = package
    assert set(containers) == STEPS
    for name, executor in containers.items():
        resources = executor["container"]["resources"]
        for kind in ("Cpu", "Memory"):
            limit = resources[f"resource{kind}Limit"]
            assert limit == resources[f"resource{kind}Request"], name


def test_every_pod_runs_as_an_ordinary_user_and_ends_in_time(package: tuple[str, Any, Any]) -> None:
    _, _, settings = package
    assert set(settings) == STEPS
    for name, of in settings.items():
        assert of["securityContext"] == {"runAsNonRoot": True, "runAsUser": "10001", "runAsGroup": "10001"}, name
        assert int(of["activeDeadlineSeconds"]) > 0, name


def test_only_training_gets_a_gpu_and_its_node(package: tuple[str, Any, Any]) -> None:
    _, containers, settings = package
    with_gpu = {name for name, of in containers.items() if "accelerator" in of["container"]["resources"]}
    assert with_gpu == {"train"}
    assert containers["train"]["container"]["resources"]["accelerator"] == {
        "resourceType": "nvidia.com/gpu", "resourceCount": "1", "type": "nvidia.com/gpu", "count": "1",
    }  # fmt: skip
    assert settings["train"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert settings["train"]["emptyDirMounts"] == [
        {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "4Gi"}
    ]


def test_another_gpu_node_and_pull_secret_can_be_asked_for(tmp_path: Path) -> None:
    _, containers, settings = compiled(
        tmp_path, "steps.train.gpu_type=amd.com/gpu", "steps.train.gpus=4", "image_pull_secrets=[mine]",
        "steps.train.node_selector={zone: a}",
    )  # fmt: skip
    assert containers["train"]["container"]["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    assert containers["train"]["container"]["resources"]["accelerator"]["resourceCount"] == "4"
    assert settings["train"]["nodeSelector"]["labels"] == {"zone": "a"}
    for of in settings.values():
        assert [secret["secretName"] for secret in of["imagePullSecret"]] == ["mine"]


def test_a_training_that_was_preempted_finds_its_state(package: tuple[str, Any, Any], tmp_path: Path) -> None:
    _, containers, settings = package
    assert settings["train"]["pvcMount"][0]["mountPath"] == "/training"
    assert {"name": "TROIKA_TRAINING_STATE", "value": "/training"} in containers["train"]["container"]["env"]
    _, containers, settings = compiled(tmp_path, "training_state=null")
    assert "pvcMount" not in settings["train"]
    assert "env" not in containers["train"]["container"]


def test_what_a_lost_pod_breaks_is_repeated_and_a_release_is_not(package: tuple[str, Any, Any]) -> None:
    found = tasks(package[0])
    retries = {name: task.get("retryPolicy", {}).get("maxRetryCount", 0) for name, task in found.items()}
    assert retries == {
        "prepare-data": 2, "train": 3, "export-model": 2, "train-evaluator": 2, "find-champion": 3, "evaluate": 2,
        "publish-model": 3, "release-model": 0,
    }  # fmt: skip


def every_task(package: Path) -> dict[str, tuple[dict[str, Any], int]]:
    """Each task of a package that runs a pod, by its place in the graph, with its time-out in seconds."""
    graph, platform = yaml.safe_load_all(package.read_text())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: dict[str, tuple[dict[str, Any], int]] = {}

    def walk(dag: dict[str, Any], place: str) -> None:
        for name, task in dag["tasks"].items():
            component = graph["components"][task["componentRef"]["name"]]
            if "dag" in component:
                walk(component["dag"], f"{place}{name}/")
            else:
                found[place + name] = (task, int(pods[component["executorLabel"]]["activeDeadlineSeconds"]))

    walk(graph["root"]["dag"], "")
    return found


@pytest.mark.parametrize("changes", [(), ("steps.train.retries=10", "steps.evaluate={timeout_seconds: 1}")])
def test_every_attempt_of_every_task_has_its_whole_time_out(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Argo starts no attempt after `maxDuration` from the first one's start, and ends one that runs then."""
    sections = read_sections(REPOSITORY / "params.yaml")
    cluster = read_cluster(FILE, parse_assignments(list(changes)))
    compile_pipeline(tmp_path / "run.yaml", IMAGE, sections, cluster)
    compile_sweep(
        tmp_path / "sweep.yaml", IMAGE, sections, read_sweep(REPOSITORY / "pipelines" / "sweep.yaml"), cluster
    )
    for package in ("run.yaml", "sweep.yaml"):
        repeated = 0
        for place, (task, timeout) in every_task(tmp_path / package).items():
            policy = task.get("retryPolicy")
            if policy is None:
                assert task["taskInfo"]["name"] == "release-model", place
                continue
            seconds = {
                key: int(policy[key].removesuffix("s")) for key in ("backoffDuration", "backoffMaxDuration")
            }
            retries = policy["maxRetryCount"]
            waits = sum(seconds["backoffDuration"] * policy["backoffFactor"] ** n for n in range(retries))
            assert seconds["backoffMaxDuration"] >= (retries + 1) * timeout + waits, f"{package}: {place}"
            repeated += 1
        assert repeated >= 7, package


def test_secrets_go_by_name_to_those_that_need_them_alone(package: tuple[str, Any, Any]) -> None:
    _, containers, settings = package
    reading = {
        name: {one["secretName"] for kind in ("secretAsEnv", "secretAsVolume") for one in of.get(kind, [])}
        for name, of in settings.items()
    }
    assert {name: secrets for name, secrets in reading.items() if secrets} == {
        "find-champion": {"troika-git"},
        "evaluate": {"troika-store"},
        "publish-model": {"troika-store", "troika-signing"},
        "release-model": {"troika-store", "troika-git"},
    }
    paths = {one["name"]: one["value"] for one in containers["publish-model"]["container"]["env"]}
    assert paths == {"TROIKA_SIGNING_KEY": "/secrets/signing/cosign.key"}


def test_no_secret_value_is_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the one who compiles holds them in the environment."""
    for variable in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GIT_SSH_COMMAND", "TROIKA_ADMIN_KEY"):
        monkeypatch.setenv(variable, "sup3r-s3cret-value")
    text, _, _ = compiled(tmp_path)
    assert "sup3r-s3cret-value" not in text
    with pytest.raises(ParameterError, match=r"secrets\.store\.value: unknown key"):
        read_cluster(FILE, parse_assignments(["secrets.store.value=sup3r-s3cret-value"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps.train.memory=16 GB", "steps.train.memory"),
        ("steps.train.gpus=-1", "steps.train.gpus"),
        ("steps.train.timeout_seconds=0", "steps.train.timeout_seconds"),
        ("steps.train.secrets=[none]", "'none' is not under secrets"),
        ("steps.release_model.retries=1", "steps.release_model.retries must be 0"),
        ("steps.trian={}", "steps.trian"),
        ("secrets.other={name: a}", "give environment or mount"),
        ("secrets.store.name=Not_A_Name", "secrets.store.name"),
        ("colour=blue", "colour: unknown key"),
    ],
)
def test_a_wrong_cluster_file_names_its_key(change: str, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        read_cluster(FILE, parse_assignments([change]))


def test_the_form_for_git_is_named_by_its_content(tmp_path: Path) -> None:
    sections, cluster = read_sections(REPOSITORY / "params.yaml"), read_cluster(FILE)
    names = []
    for image in (IMAGE, IMAGE, IMAGE.replace("00", "01")):
        version = compile_pipeline(tmp_path / "pipeline.yaml", image, sections, cluster)
        compile_manifests(tmp_path / "manifests.yaml", version, "team-a", image, sections, cluster)
        pipeline, pipeline_version = yaml.safe_load_all((tmp_path / "manifests.yaml").read_text())
        assert (pipeline["kind"], pipeline_version["kind"]) == ("Pipeline", "PipelineVersion")
        assert pipeline_version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
        assert {one["metadata"]["namespace"] for one in (pipeline, pipeline_version)} == {"team-a"}
        graph, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
        assert pipeline_version["spec"]["pipelineSpec"] == graph
        assert pipeline_version["spec"]["platformSpec"] == platform
        names.append(pipeline_version["metadata"]["name"])
    assert names[0] == names[1] != names[2]
