"""What pods get on a cluster: all of it visible in the compiled package, and nothing secret there."""

import json
import os
import re
import subprocess
import sys
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
    described = {one["name"]: one["value"] for one in containers["publish-model"]["container"]["env"]}
    assert json.loads(described["TROIKA_STEP_ENVIRONMENT"]) == {
        "AWS_ACCESS_KEY_ID": {"file": "/secrets/store/access-key-id"},
        "AWS_SECRET_ACCESS_KEY": {"file": "/secrets/store/secret-access-key"},
        "AWS_ENDPOINT_URL": {"file": "/secrets/store/endpoint-url"},
        "TROIKA_SIGNING_KEY": {"text": "/secrets/signing/cosign.key"},
    }
    mounts = {one["secretName"]: one["mountPath"] for one in settings["publish-model"]["secretAsVolume"]}
    assert mounts == {"troika-store": "/secrets/store", "troika-signing": "/secrets/signing"}


def test_kubeflows_launcher_gets_no_variable_that_a_cluster_file_names(package: tuple[str, Any, Any]) -> None:
    """It runs in the step's container, and would use AWS_* and GOOGLE_* for artifacts."""
    _, containers, settings = package
    assert not [name for name, of in settings.items() if "secretAsEnv" in of]
    variables = {one["name"] for of in containers.values() for one in of["container"].get("env", [])}
    assert variables == {"TROIKA_STEP_ENVIRONMENT", "TROIKA_TRAINING_STATE"}


def step_says(described: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """What a step's process prints of its environment; the parent's has the description alone."""
    code = (
        "import json, os\nfrom components.step import clear_errors\n"
        "with clear_errors():\n print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('X_')}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env={"PATH": os.environ["PATH"], "TROIKA_STEP_ENVIRONMENT": json.dumps(described)},
    )  # fmt: skip


def test_a_step_reads_its_variables_from_mounted_secrets(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sec ret=\n")
    described = {"X_KEY": {"file": str(tmp_path / "key")}, "X_SSH": {"text": "ssh -i /a/b"}}
    assert json.loads(step_says(described).stdout) == {"X_KEY": "sec ret=", "X_SSH": "ssh -i /a/b"}
    done = step_says({"X_KEY": {"file": str(tmp_path / "other")}})
    assert done.returncode not in (0, 75)
    assert "error: X_KEY: cannot read" in done.stdout
    assert "a key 'other'" in done.stdout
    assert not done.stderr


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
        ("steps.train.memory=16", "steps.train.memory: 16 is 16 bytes"),
        ("steps.train.memory='16'", "did you mean 16Gi?"),
        ("steps.train.memory=400m", "steps.train.memory: 400m is 1 bytes"),
        ("steps.train.memory=16Ki", "16Ki is 16384 bytes, and Python alone takes 128Mi; did you mean 16Gi?"),
        ("steps.train.memory=16GB", "steps.train.memory: must be a quantity"),
        ("steps.train.memory=16gi", "steps.train.memory: must be a quantity"),
        ("steps.train.memory=1K", "steps.train.memory: must be a quantity"),
        ("steps.train.memory=NaN", "steps.train.memory: must be a quantity"),
        ("steps.train.memory=-1Gi", "steps.train.memory: must be a quantity"),
        ("steps.train.memory=100Ei", "steps.train.memory: must be above 0 and below 8Ei"),
        ("steps.train.memory=true", "steps.train.memory"),
        ("steps.train.cpu='0'", "steps.train.cpu: must be above 0"),
        ("steps.train.cpu=0.0001", "steps.train.cpu: must be whole thousandths"),
        ("steps.train.cpu=two", "steps.train.cpu: must be a quantity"),
        ("steps.train.cpu='1_0'", "steps.train.cpu: must be a quantity"),
        ("steps.train.cpu=''", "steps.train.cpu: must be a quantity"),
        ("steps.train.shared_memory=32Gi", "shared_memory 32Gi is part of memory, which is 16Gi"),
        ("steps.train.shared_memory='64'", "did you mean 64Mi?"),
        ("steps.train.gpus=-1", "steps.train.gpus"),
        ("steps.train.gpu_type=gpu", "steps.train.gpu_type: must be a resource with its vendor's domain"),
        ("steps.train.gpu_type=kubernetes.io/gpu", "steps.train.gpu_type"),
        ("steps.train.gpu_type=nvidia.com/", "steps.train.gpu_type"),
        ("steps.train.timeout_seconds=0", "steps.train.timeout_seconds"),
        ("steps.train.timeout_seconds=99999999999", "steps.train.timeout_seconds"),
        ("steps.train.secrets=[none]", "'none' is not under secrets"),
        ("steps.release_model.retries=1", "steps.release_model.retries must be 0"),
        ("steps.trian={}", "steps.trian"),
        ("steps.train.node_selector={zone: 'a b'}", "steps.train.node_selector.zone: must be a label's value"),
        ("steps.train.node_selector={'a b': c}", "must be a label's key"),
        ("steps.train.node_selector={'Example.com/a': c}", "must be a label's key"),
        ("steps.train.node_selector={gpu: true}", "steps.train.node_selector.gpu"),
        ("steps.train.tolerations=[{key: a, operator: Exists, value: b}]", "operator Exists takes no value"),
        ("steps.train.tolerations=[{operator: Equal, value: b}]", "operator Equal needs a key"),
        ("steps.train.tolerations=[{key: a, effect: Sometimes}]", "steps.train.tolerations.0.effect"),
        ("steps.train.tolerations=[{key: a/b/c}]", "steps.train.tolerations.0.key"),
        ("secrets.other={name: a}", "give environment, files or mount"),
        ("secrets.store.name=Not_A_Name", "secrets.store.name"),
        ("secrets.store.name=troika.store", "secrets.store.name: it names a volume of the pod"),
        ("secrets.git.name=troika.git", "secrets.git.name: it names a volume of the pod"),
        (f"secrets.git.name={'a' * 64}", "secrets.git.name: it names a volume of the pod"),
        ("secrets.store.name=troika-git", "the pod has another volume that is named troika-git"),
        ("secrets.store.name=shared-memory", "another volume that is named shared-memory"),
        ("secrets.store.name=kfp-launcher", "another volume that is named kfp-launcher"),
        ("secrets.git.mount=secrets/git", "secrets.git.mount: must be an absolute path"),
        ("secrets.git.mount=/secrets/../etc", "secrets.git.mount: must be an absolute path"),
        ("secrets.git.mount=/secrets/git/", "secrets.git.mount: must be an absolute path"),
        ("secrets.git.mount='/secrets:git'", "secrets.git.mount: must be an absolute path"),
        ("secrets.git.mount=/", "is there already; mount it elsewhere"),
        ("secrets.git.mount=/tmp", "/tmp is there already"),
        ("secrets.git.mount=/usr", "/usr is there already"),
        ("secrets.git.mount=/dev/shm", "/dev/shm is there already"),
        ("secrets.git.mount=/training/key", "/training is there already"),
        ("secrets.git.mount=/gcs", "/gcs is there already"),
        ("secrets.git.mount=/opt", "/opt is there already"),
        ("secrets.git.mount=/secrets/store", "mounted at /secrets/store, where another secret is"),
        ("secrets.git.mount=/secrets/store/git", "mounted at /secrets/store/git, where another secret is"),
        ("secrets.git.mount=/secrets", "mounted at /secrets, where another secret is"),
        ("secrets.store.environment={a b: X}", "secrets.store.environment"),
        ("secrets.store.environment={..a: X}", "as keys of secrets are"),
        ("secrets.store.environment={a: KFP_POD_NAME}", "KFP_POD_NAME is reserved"),
        ("secrets.store.environment={a: ARGO_TEMPLATE}", "ARGO_TEMPLATE is reserved"),
        ("secrets.store.environment={a: TROIKA_STEP_ENVIRONMENT}", "TROIKA_STEP_ENVIRONMENT is reserved"),
        ("secrets.store.environment={a: PATH}", "PATH is reserved"),
        ("secrets.store.environment={a: LD_PRELOAD}", "LD_PRELOAD is reserved"),
        ("secrets.store.environment={a: 1X}", "must be a name of an environment variable"),
        ("secrets.store.environment={a: X=Y}", "must be a name of an environment variable"),
        ("secrets.store.environment={a: X, b: X}", "the variable X is set twice"),
        ("secrets.store.environment={a: GIT_SSH_COMMAND}", "another secret sets GIT_SSH_COMMAND too"),
        ("secrets.git.files={METADATA_GRPC_SERVICE_HOST: x}", "METADATA_GRPC_SERVICE_HOST is reserved"),
        ("secrets.git.files={X: 'a{{b}}'}", "Argo replaces"),
        ("secrets={'a b': {name: a, mount: /a}}", "secrets.a b"),
        ("training_state=my.claim", "training_state: it names a volume of the pod"),
        ("training_state=My_Claim", "training_state"),
        ("training_state=kfp-launcher", "training_state: the pod has another volume that is named kfp-launcher"),
        ("training_state=troika-git", "steps.train.secrets: git: the pod has another volume"),
        ("training_state_access=ReadOnlyMany", "training_state_access"),
        ("image_pull_secrets=[a_b]", "image_pull_secrets.0"),
        ("image_pull_secrets=[a, a]", "image_pull_secrets: one is named twice"),
        ("colour=blue", "colour: unknown key"),
    ],
)
def test_a_wrong_cluster_file_names_its_key(change: str, message: str) -> None:
    changes = [change, "steps.train.secrets=[git]"] if change == "training_state=troika-git" else [change]
    with pytest.raises(ParameterError, match=re.escape(message)):
        read_cluster(FILE, parse_assignments(changes))


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("cpu='0.5'", "cpu", "500m"),
        ("cpu=0.5", "cpu", "500m"),
        ("cpu=2", "cpu", "2"),
        ("cpu=1500m", "cpu", "1500m"),
        ("cpu='.25'", "cpu", "250m"),
        ("cpu='1e0'", "cpu", "1"),
        ("memory=1.5Gi", "memory", "1536Mi"),
        ("memory=2G", "memory", "1953125Ki"),
        ("memory='1e9'", "memory", "1000000000"),
        ("memory=1073741824", "memory", "1Gi"),
        ("memory=0.5Ti", "memory", "512Gi"),
        ("memory=512M", "memory", "500000Ki"),
    ],
)
def test_quantities_that_kubernetes_takes_are_taken(change: str, key: str, value: str, tmp_path: Path) -> None:
    _, containers, _ = compiled(tmp_path, f"steps.export_model.{change}")
    resources = containers["export-model"]["container"]["resources"]
    assert resources[f"resource{key.capitalize()}Limit"] == value
    assert resources[f"resource{key.capitalize()}Request"] == value


@pytest.mark.parametrize(
    "change",
    [
        "steps.train.tolerations=[{operator: Exists}]",
        "steps.train.tolerations=[{key: example.com/a, operator: Equal, value: ''}]",
        "steps.train.tolerations=[{key: a, effect: NoExecute}]",
        "steps.train.node_selector={topology.kubernetes.io/zone: a_b.c, empty: ''}",
        "steps.train.shared_memory=16Gi",
        "image_pull_secrets=[my.registry]",
        "secrets.git.mount=/etc/troika/git",
        "secrets.git.mount=/var/run/secrets/troika",
        "secrets.store.environment={a.b_c-d: X}",
        "secrets.Model_store={name: a, environment: {b: C}}",
    ],
)
def test_what_kubernetes_takes_is_taken(change: str) -> None:
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
