"""What is sent to Kubeflow, and what is made of its answers; Kubeflow itself is a fake."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipelines_fake import FakeKubeflow, fake_kubeflow
from quick import REPOSITORY
from typer.testing import CliRunner

from pipelines.graph import PIPELINE_NAME
from pipelines.submit import Kubeflow, KubeflowError, RunFailedError, read_recurring
from troika.cli import app
from troika.errors import ParameterError

ARGUMENTS = {"store": "s3://models", "release_remote": "git@git.test:deploy.git", "environment": "staging"}
SUBMIT = (
    "--image", "registry.test/train@sha256:00", "--store", "s3://models",
    "--release-remote", "git@git.test:deploy.git", "--to", "staging",
    "--params", str(REPOSITORY / "params.yaml"), "--cluster", str(REPOSITORY / "pipelines" / "cluster.yaml"),
)  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    monkeypatch.setenv("TROIKA_KUBEFLOW_TOKEN", "token-of-test")
    with fake_kubeflow() as running:
        running.plays = [{"state": "SUCCEEDED"}]
        yield running


def submit(fake: FakeKubeflow, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["submit", "--host", fake.url, *SUBMIT, *more])
    return result.exit_code, result.output


def task(name: str, state: str, message: str | None = None) -> dict[str, Any]:
    return {
        "display_name": name,
        "state": state,
        **({"error": {"code": 1, "message": message}} if message else {}),
    }


def test_a_run_of_a_new_version_is_started_and_linked(fake: FakeKubeflow) -> None:
    status, output = submit(fake)
    assert status == 0, output
    version = next(v for v in fake.versions.values() if v["display_name"] != PIPELINE_NAME)
    assert version["display_name"] in output
    assert f"{fake.url}/#/runs/details/r0" in output
    (run,) = fake.runs.values()
    assert run["runtime_config"]["parameters"] == ARGUMENTS
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    images = {
        executor["container"]["image"]
        for executor in version["pipeline_spec"]["deploymentSpec"]["executors"].values()
    }
    assert images == {"registry.test/train@sha256:00"}
    assert "Bearer token-of-test" in fake.tokens


def test_runs_and_recurring_runs_have_the_account_that_is_asked_for(fake: FakeKubeflow, tmp_path: Path) -> None:
    assert submit(fake)[0] == submit(fake, "--service-account", "troika-pipeline")[0] == 0
    assert [run.get("service_account") for run in fake.runs.values()] == [None, "troika-pipeline"]
    path = declare(tmp_path / "a.yaml", nightly={"cron": "0 0 2 * * *", "arguments": ARGUMENTS})
    for account in ("troika-pipeline", "another"):  # a change is seen as such
        command = ["recurring", str(path), "--host", fake.url, "--service-account", account]
        assert CliRunner().invoke(app, command).exit_code == 0
        assert [run["service_account"] for run in fake.recurring.values()] == [account]


def test_the_same_content_is_uploaded_once_and_other_content_again(fake: FakeKubeflow) -> None:
    submit(fake)
    before = dict(fake.versions)
    status, output = submit(fake)
    assert (status, fake.versions) == (0, before)
    assert "is there already" in output
    submit(fake, "--set", "train.steps=7")
    assert len(fake.versions) == len(before) + 1
    assert len(fake.runs) == 3


def test_each_steps_state_is_told_once_as_it_changes(fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    running = {"state": "RUNNING", "run_details": {"task_details": [task("prepare-data", "RUNNING")]}}
    done = {
        "state": "SUCCEEDED",
        "run_details": {"task_details": [task("prepare-data", "SUCCEEDED"), task("executor", "SUCCEEDED")]},
    }
    fake.plays = [{"state": "PENDING"}, running, running, done]
    status, output = submit(fake)
    assert status == 0
    assert [line.split() for line in output.splitlines() if line.startswith("  ")] == [
        ["prepare-data", "running"],
        ["prepare-data", "succeeded"],
    ]
    assert output.endswith("succeeded\n")


def test_a_failed_run_names_the_step_its_words_and_its_page(fake: FakeKubeflow) -> None:
    fake.plays = [
        {"state": "FAILED", "run_details": {"task_details": [task("train", "FAILED", "error: no GPU is left")]}}
    ]
    status, output = submit(fake)
    assert status == 1
    assert "error: no GPU is left" in output
    assert f"the run ended as failed in train; its logs: {fake.url}/#/runs/details/r0" in output


def test_nobody_needs_to_follow(fake: FakeKubeflow) -> None:
    fake.plays = [{"state": "FAILED"}]
    status, output = submit(fake, "--no-follow")
    assert status == 0
    assert "#/runs/details/r0" in output


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_refusal_is_one_line(fake: FakeKubeflow, code: int) -> None:
    fake.refuse_with = code
    status, output = submit(fake)
    assert status == 1
    assert f"answered {code}: no such right" in output
    assert ("TROIKA_KUBEFLOW_TOKEN" in output) == (code in {401, 403})
    assert "Traceback" not in output


def test_a_kubeflow_that_is_not_there_is_named() -> None:
    with pytest.raises(KubeflowError, match=r"http://127\.0\.0\.1:9 does not answer as Kubeflow Pipelines does"):
        Kubeflow("http://127.0.0.1:9", "kubeflow")


def test_following_a_cancelled_run_fails(fake: FakeKubeflow) -> None:
    fake.plays = [{"state": "CANCELED"}]
    with pytest.raises(RunFailedError, match="canceled"):
        Kubeflow(fake.url, "kubeflow").follow("r0", print)


def declare(path: Path, **runs: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(runs))
    return path


def recurring(fake: FakeKubeflow, path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["recurring", str(path), "--host", fake.url])
    return result.exit_code, result.output


def test_recurring_runs_become_those_that_are_declared(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    fake.recurring["by-hand"] = {"recurring_run_id": "by-hand", "display_name": "mine", "description": "by hand"}
    nightly = {"cron": "0 0 2 * * *", "arguments": ARGUMENTS}
    weekly = {"cron": "0 0 3 * * 0", "arguments": {**ARGUMENTS, "seed": 1}}
    assert recurring(fake, declare(tmp_path / "a.yaml", nightly=nightly, weekly=weekly))[0] == 0
    made = {run["display_name"]: run for run in fake.recurring.values()}
    assert set(made) == {"mine", "nightly", "weekly"}
    assert made["nightly"]["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert made["weekly"]["runtime_config"]["parameters"]["seed"] == 1
    # Without a version: Kubeflow takes the newest one each time.
    assert made["nightly"]["pipeline_version_reference"] == {"pipeline_id": "p0"}
    before = dict(fake.recurring)
    _, output = recurring(fake, tmp_path / "a.yaml")
    assert fake.recurring == before
    assert output.count("unchanged") == 2
    changed = {**nightly, "cron": "0 30 2 * * *"}
    recurring(fake, declare(tmp_path / "b.yaml", nightly=changed))
    left = {run["display_name"]: run for run in fake.recurring.values()}
    assert set(left) == {"mine", "nightly"}
    assert left["nightly"]["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * *"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 2 * * *"}, "cron"),
        ({"arguments": {"store": "s3://models"}}, "release_remote, environment must be given"),
        ({"every": "day"}, "every: unknown key"),
    ],
)
def test_a_wrong_declaration_names_its_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"cron": "0 0 2 * * *", "arguments": ARGUMENTS}
    assert set(read_recurring(declare(tmp_path / "good.yaml", nightly=good))) == {"nightly"}
    with pytest.raises(ParameterError, match=message):
        read_recurring(declare(tmp_path / "bad.yaml", nightly={**good, **changes}))


def test_recurring_runs_need_an_uploaded_pipeline(fake: FakeKubeflow, tmp_path: Path) -> None:
    nightly = {"cron": "0 0 2 * * *", "arguments": ARGUMENTS}
    status, output = recurring(fake, declare(tmp_path / "a.yaml", nightly=nightly))
    assert (status, "`troika submit` uploads it" in output) == (1, True)
