"""What `troika submit` sends to Kubeflow; Kubeflow itself is a fake with recorded answers."""

import json
from typing import Any

import pytest
import yaml
from kubeflow_commands import ARGUMENTS, submit
from pipelines_fake import FakeKubeflow, recorded
from quick import REPOSITORY

from pipelines.arguments import FORM, REQUIRED, check_arguments, inputs_of, run_arguments
from pipelines.compile import compile_pipeline
from pipelines.graph import PIPELINE_NAME
from troika.cli_parameters import read_parameters
from troika.errors import ParameterError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parameters of the compiled package."""
    package = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compile_pipeline(package, "registry.test/train", read_parameters(REPOSITORY / "params.yaml", None, {}))
    found = inputs_of(next(iter(yaml.safe_load_all(package.read_text()))))
    assert found is not None
    return dict(found)


def spec_of(version: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = version["pipeline_spec"]["pipeline_spec"]
    return found


def test_a_run_of_a_new_version_is_started_and_linked(fake: FakeKubeflow) -> None:
    status, output = submit(fake)
    assert status == 0, output
    (version,) = fake.versions.values()
    assert version["display_name"].startswith(f"{PIPELINE_NAME}-")
    assert f"{version['display_name']} uploaded" in output
    assert f"{fake.url}/#/runs/details/r0" in output
    (run,) = fake.runs.values()
    assert run["runtime_config"]["parameters"] == ARGUMENTS
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    images = {
        executor["container"]["image"] for executor in spec_of(version)["deploymentSpec"]["executors"].values()
    }
    assert images == {"registry.test/train@sha256:00"}
    assert set(fake.tokens) == {"Bearer token-of-test"}


def test_a_run_has_the_account_that_is_asked_for(fake: FakeKubeflow) -> None:
    assert submit(fake)[0] == submit(fake, "--service-account", "troika-pipeline")[0] == 0
    assert [run.get("service_account") for run in fake.runs.values()] == [None, "troika-pipeline"]


def test_the_first_upload_makes_one_version(fake: FakeKubeflow) -> None:
    submit(fake)
    assert [version["name"] for version in fake.versions.values()] != [PIPELINE_NAME]
    assert len(fake.versions) == 1


def test_set_changes_the_run_and_never_the_version(fake: FakeKubeflow) -> None:
    submit(fake)
    changes = (
        "train.steps=7",
        "evaluate.champion.must=match",
        "train.batch_size=32",
        "evaluate.limits.precision.below_floor=0.2",
    )
    status, output = submit(fake, *(part for change in changes for part in ("--set", change)))
    assert status == 0, output
    assert len(fake.versions) == 1
    assert "is there already, and is the newest" in output
    run = fake.runs["r1"]["runtime_config"]["parameters"]
    assert run == ARGUMENTS | {
        "steps": 7,
        "champion_must": "match",
        "overrides": {"train": {"batch_size": 32}, "evaluate": {"limits": {"precision": {"below_floor": 0.2}}}},
    }


def test_a_version_that_is_not_the_newest_is_told_as_such(fake: FakeKubeflow) -> None:
    submit(fake)
    submit(fake, "--image", "registry.test/train@sha256:01")
    first, second = [version["name"] for version in fake.versions.values()]
    _, output = submit(fake)
    assert f"{first} is there already; a newer one is {second}" in output
    assert fake.runs["r2"]["pipeline_version_reference"]["pipeline_version_id"] == "v0"


def test_the_namespace_is_given_everywhere(fake: FakeKubeflow) -> None:
    fake.namespace = "troika-training"
    shared = fake.add_pipeline(PIPELINE_NAME, None)
    status, output = submit(fake, "--namespace", "troika-training")
    assert status == 0, output
    (run,) = fake.runs.values()
    assert run["pipeline_version_reference"]["pipeline_id"] != shared["pipeline_id"]
    own = fake.pipelines[run["pipeline_version_reference"]["pipeline_id"]]
    assert own["namespace"] == fake.experiments["e0"]["namespace"] == "troika-training"
    for asked in fake.asked("GET", r"/(pipelines|experiments|runs)\?"):
        assert "namespace=troika-training" in asked


def test_two_pipelines_of_a_name_are_refused(fake: FakeKubeflow) -> None:
    fake.add_pipeline(PIPELINE_NAME, "kubeflow")
    fake.add_pipeline(PIPELINE_NAME, "kubeflow")
    status, output = submit(fake)
    assert (status, fake.runs) == (1, {})
    assert f"namespace kubeflow has 2 pipelines named {PIPELINE_NAME} (p0, p1)" in output


def test_fresh_starts_a_run_without_the_cache(fake: FakeKubeflow) -> None:
    assert submit(fake, "--fresh")[0] == 0
    (run,) = fake.runs.values()
    text = json.dumps(run["pipeline_spec"])
    assert "cachingOptions" not in text
    assert "cachingOptions" in json.dumps(fake.versions["v0"])
    assert run["pipeline_spec"]["platform_spec"] == fake.versions["v0"]["pipeline_spec"]["platform_spec"]
    assert run.get("pipeline_version_reference") is None


@pytest.mark.parametrize("fault", ["lost", "drop", 502])
def test_a_start_whose_answer_is_lost_is_not_made_twice(
    fake: FakeKubeflow, no_waiting: None, fault: int | str
) -> None:
    fake.fault_of["POST /runs"] = fault
    status, output = submit(fake, "--no-follow")
    assert status == 0, output
    assert len(fake.runs) == 1
    assert f"{fake.url}/#/runs/details/r0" in output


@pytest.mark.parametrize("path", ["pipelines", "pipelines/upload_version", "experiments", "runs"])
def test_an_answer_that_made_nothing_starts_nothing(fake: FakeKubeflow, path: str) -> None:
    fake.fault_of[f"POST /{path}"] = {}
    status, output = submit(fake)
    assert (status, fake.runs) == (1, {})
    assert "None" not in output
    assert "an answer without" in output


def test_nobody_needs_to_follow(fake: FakeKubeflow) -> None:
    fake.plays = [recorded("run_train_pod_deleted")]
    status, output = submit(fake, "--no-follow")
    assert status == 0
    assert "#/runs/details/r0" in output


def test_only_our_own_lines_are_printed(fake: FakeKubeflow, recwarn: pytest.WarningsRecorder) -> None:
    _, output = submit(fake)
    assert "details:" not in output.replace("/details/", "")
    assert "FutureWarning" not in output + str([str(entry.message) for entry in recwarn])


@pytest.mark.parametrize(
    ("tag", "status", "words"),
    [
        ("2.17.0", 0, ""),
        ("2.16.1", 0, ""),
        ("2.15.2", 1, "needs 2.16 or newer"),
        ("2.4.0", 1, "needs 2.16 or newer"),
        ("unknown", 0, "calls itself 'unknown'"),
        ("dev", 0, "calls itself 'dev'"),
        ("", 0, "calls itself 'nothing'"),
    ],
)
def test_a_backend_that_is_too_old_is_refused_before_anything_is_sent(
    fake: FakeKubeflow, tag: str, status: int, words: str
) -> None:
    fake.health["tag_name"] = tag
    found, output = submit(fake)
    assert (found, bool(fake.versions)) == (status, status == 0), output
    assert words in " ".join(output.split())


def test_the_form_is_that_of_the_package(inputs: dict[str, Any]) -> None:
    assert {name: entry["parameterType"] for name, entry in inputs.items()} == {
        name: field.kind for name, field in FORM.items()
    }
    assert {name for name, entry in inputs.items() if "defaultValue" not in entry} == set(REQUIRED)
    sections = read_parameters(REPOSITORY / "params.yaml", None, {})
    for name, field in FORM.items():
        value: Any = sections if field.path else inputs[name].get("defaultValue")
        for key in field.path:
            value = value[key]
        assert value == inputs[name].get("defaultValue"), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"seed": 2**53 + 1}}, "--set: train.seed: 9007199254740993: .* would round it"),
        ({"evaluate": {"samples": {"seed": 2**60}}}, "would round it"),
        ({"train": {"note": "{{x}}"}}, "--set: train.note"),
        ({"evaluate": {"limits": {"recall": None}}}, "null cannot be handed to a run"),
    ],
)
def test_what_a_run_cannot_be_given_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        run_arguments(changes)


def test_a_limit_that_is_taken_away_is_the_forms_word_for_it() -> None:
    assert run_arguments({"evaluate": {"limits": {"label_agreement": {"below_floor": None}}}}) == {
        "label_agreement_margin": -1.0
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environment": None}, "environment must be text, not None"),
        ({"environment": 3}, "environment must be text, not 3"),
        ({"nonsense": 1}, "no argument 'nonsense'; it has .*store"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"overrides": "train"}, "overrides must be a group"),
        ({"seed": 2**53 + 1}, "would round it"),
    ],
)
def test_arguments_are_checked_by_the_package(
    inputs: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    for known in (None, inputs):
        check_arguments(ARGUMENTS, "run", known)
        with pytest.raises(ParameterError, match=f"run: .*{message}"):
            check_arguments(ARGUMENTS | arguments, "run", known)
        with pytest.raises(ParameterError, match="run: environment must be given"):
            check_arguments({"release_remote": "git@git.test:deploy.git", "store": "s3://models"}, "run", known)
