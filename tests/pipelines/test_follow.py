"""What a person at the terminal is told of a run, by recorded answers of a real API server."""

import copy
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import kfp_server_api
import pytest
from kubeflow_commands import submit, troika
from pipelines_fake import FakeKubeflow, recorded

from pipelines.run_tasks import RunTasks

DELETED = "run_train_pod_deleted"


def follow(fake: FakeKubeflow, *more: str) -> tuple[int, str]:
    return troika("follow", "r0", "--host", fake.url, *more)


def task(name: str, state: str, message: str | None = None) -> dict[str, Any]:
    error = {"error": {"code": 1, "message": message}} if message else {}
    return {"display_name": name, "state": state, **error}


@pytest.mark.usefixtures("no_waiting")
def test_each_steps_state_is_told_once_as_it_changes(fake: FakeKubeflow) -> None:
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


def test_a_recorded_run_shows_its_steps_in_the_order_of_their_start(fake: FakeKubeflow) -> None:
    fake.plays = [recorded("run_released")]
    status, output = follow(fake)
    assert status == 0
    steps = [line.split()[0] for line in output.splitlines() if line.startswith("  ")]
    assert steps == [
        "find-champion", "prepare-data", "train", "train-evaluator", "export-model", "evaluate", "publish-model",
        "release-model",
    ]  # fmt: skip
    assert "prepare-data   succeeded, from the cache" in output
    assert "train          succeeded\n" in output


def test_attempts_are_counted_by_the_recorded_ids() -> None:
    tasks = RunTasks(model(recorded("run_rejected_model_after_retries")))
    assert len(tasks.attempts("find-champion")) == 1
    assert tasks.retries_lost_pods() is False
    deleted = RunTasks(model(recorded(DELETED)))
    assert deleted.workflow == "troika-train-and-release-pwncp"
    assert deleted.attempts("train") == ("troika-train-and-release-pwncp-2625549549",)
    assert RunTasks(model(recorded("run_running"))).retries_lost_pods() is True


def test_a_failed_step_with_words_of_its_own_is_named_with_them(fake: FakeKubeflow) -> None:
    fake.plays = [
        {"state": "FAILED", "run_details": {"task_details": [task("train", "FAILED", "error: no GPU is left")]}}
    ]
    status, output = submit(fake)
    assert status == 1
    assert "error: no GPU is left" in output
    assert f"the run ended as failed in train; its logs: {fake.url}/#/runs/details/r0" in output


def test_a_failed_driver_is_named_and_the_command_that_shows_why(fake: FakeKubeflow) -> None:
    fake.plays = [recorded("run_first_driver_without_token")]
    status, output = follow(fake)
    assert status == 1
    assert "the run ended as failed in the driver of the whole run" in output
    assert "kubectl -n kubeflow get workflows -l pipeline/runid=r0 -o jsonpath=" in output
    assert not fake.asked("POST", "/runs/r0:retry")


def test_a_deleted_pod_is_named_and_steps_that_never_began_are_not(fake: FakeKubeflow) -> None:
    fake.plays = [recorded(DELETED)]
    status, output = follow(fake, "--no-retry")
    assert status == 1
    assert "the run ended as failed in train;" in output
    assert "as when a pod is deleted, evicted or preempted" in output
    assert "grep -e troika-train-and-release-pwncp | grep -e 2625549549" in output
    assert "export-model" not in output


@pytest.mark.usefixtures("no_waiting")
def test_a_lost_pod_is_tried_again_once_through_the_api(fake: FakeKubeflow) -> None:
    failed, released = recorded(DELETED), recorded("run_released")
    fake.plays = [failed, failed, {"state": "RUNNING"}, released]
    status, output = follow(fake)
    assert status == 0, output
    assert "train: its pod was lost (deleted, evicted or preempted); the run is tried again, once" in output
    assert len(fake.asked("POST", "/runs/r0:retry")) == 1


@pytest.mark.usefixtures("no_waiting")
def test_a_run_that_was_tried_again_is_not_tried_a_third_time(fake: FakeKubeflow) -> None:
    again = recorded(DELETED)
    again["state_history"] += [
        {"update_time": "2026-11-28T06:50:00Z", "state": "RUNNING"},
        {"update_time": "2026-11-28T06:52:00Z", "state": "FAILED"},
    ]
    again["finished_at"] = "2026-11-28T06:52:00Z"
    fake.plays = [recorded(DELETED), again]
    status, _ = follow(fake)
    assert status == 1
    assert len(fake.asked("POST", "/runs/r0:retry")) == 1
    fake.plays = [again]  # and another time by somebody else
    assert "the run has been tried again before" in follow(fake)[1]
    assert len(fake.asked("POST", "/runs/r0:retry")) == 1


@pytest.mark.usefixtures("no_waiting")
def test_a_retry_of_a_run_without_an_end_is_asked_for_once(fake: FakeKubeflow) -> None:
    failed = recorded(DELETED) | {"finished_at": None}
    fake.plays = [failed]
    assert follow(fake)[0] == 1
    assert len(fake.asked("POST", "/runs/r0:retry")) == 1


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [502, "drop", "lost"])
def test_a_retry_whose_answer_is_lost_is_asked_for_again(fake: FakeKubeflow, fault: int | str) -> None:
    fake.fault_of["POST /runs/r0:retry"] = fault
    fake.plays = [recorded(DELETED)] * 3 + [{"state": "RUNNING"}, recorded("run_released")]
    fake.refuse_retry = fault == "lost"  # the first was accepted
    status, output = follow(fake)
    assert status == 0, output
    assert "refuses to try the run again" not in output


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("answer", [{}, {"error": "login required"}])
def test_an_answer_that_is_no_run_is_not_followed(fake: FakeKubeflow, answer: dict[str, str]) -> None:
    fake.fault_of["GET /runs/r0"] = answer
    status, output = follow(fake)
    assert status == 3
    assert "an answer without run_id" in output


@pytest.mark.parametrize("run", ["", "/", "..", "http://kubeflow.test/.."])
def test_what_is_no_id_of_a_run_is_refused(fake: FakeKubeflow, run: str) -> None:
    status, output = troika("follow", run, "--host", fake.url)
    assert (status, "is no id of a run" in output) == (1, True), output


@pytest.mark.usefixtures("no_waiting")
def test_a_run_that_is_deleted_meanwhile_is_gone(fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.plays = [{"state": "RUNNING"}]
    monkeypatch.setattr("pipelines.follow.time.sleep", lambda _: fake.plays.clear())
    status, output = follow(fake)
    assert (status, "the run is gone, as when somebody deletes it" in output) == (1, True)


@pytest.mark.parametrize("fault", [401, 403, "page", 500])
def test_a_run_that_cannot_be_read_has_not_failed(fake: FakeKubeflow, fault: int | str) -> None:
    fake.faults = [fault]
    status, output = follow(fake)
    assert (status, "the run's state cannot be read" in output) == (3, True)


def test_a_refused_retry_is_one_sentence(fake: FakeKubeflow) -> None:
    fake.plays = [recorded(DELETED)]
    fake.refuse_retry = True
    status, output = follow(fake)
    assert status == 1
    assert "refuses to try the run again" in output
    assert "Workflow cannot be retried with node" in output
    assert "the run ended as failed in train" in output


def test_a_platform_that_starts_lost_pods_again_is_left_to_it(fake: FakeKubeflow) -> None:
    run = recorded(DELETED)
    for entry in run["run_details"]["task_details"]:
        if entry["display_name"] == "root-driver":
            entry["display_name"] = "root-driver(0)"
    fake.plays = [run]
    assert follow(fake)[0] == 1
    assert not fake.asked("POST", "/runs/r0:retry")


def test_a_step_that_failed_as_often_as_it_may_is_not_a_lost_pod(fake: FakeKubeflow) -> None:
    fake.plays = [exhausted()]
    status, output = follow(fake)
    assert status == 1
    assert "train: failed 2 times" in output
    assert not fake.asked("POST", "/runs/r0:retry")


@pytest.mark.usefixtures("no_waiting")
def test_a_pod_that_does_not_start_is_told_of_after_two_minutes(fake: FakeKubeflow) -> None:
    waiting = recorded("run_running")
    fake.plays = [waiting] * 3 + [recorded("run_released")]
    status, output = follow(fake)
    assert status == 0
    assert "train          has waited for" in output
    assert "kubectl -n kubeflow get events | grep -e troika-train-and-release-d25dm | grep -e 4181024052" in output
    assert output.count("train          has waited") == 1


@pytest.mark.usefixtures("no_waiting")
def test_a_pod_that_starts_within_two_minutes_is_not_told_of(fake: FakeKubeflow) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    waiting = recorded("run_running")
    for entry in waiting["run_details"]["task_details"]:
        entry["start_time"] = now
    fake.plays = [waiting] * 3 + [recorded("run_released")]
    assert "has waited" not in follow(fake)[1]


@pytest.mark.usefixtures("no_waiting")
def test_a_run_that_nobody_takes_up_is_told_of(fake: FakeKubeflow) -> None:
    fake.plays = [{"state": "PENDING"}] * 30 + [{"state": "SUCCEEDED"}]
    output = follow(fake)[1]
    assert output.count("the run        has waited for 2 min") == 1
    assert "workflow controller" in output


@pytest.mark.usefixtures("no_waiting")
def test_transient_answers_do_not_end_the_following(fake: FakeKubeflow) -> None:
    fake.faults = [502, "drop", 503, 504, "lost"]
    fake.plays = [recorded("run_released")]
    status, output = follow(fake)
    assert status == 0, output
    assert output.count("asking again for 10 min") == 1


@pytest.mark.usefixtures("no_waiting")
def test_losing_sight_of_a_run_is_another_status_than_its_failure(fake: FakeKubeflow) -> None:
    fake.faults = [502] * 10_000
    status, output = follow(fake)
    assert status == 3
    assert "lost sight of the run, which may well go on" in output
    assert "`troika follow r0` follows it again" in output


def test_a_cancelled_run_has_failed(fake: FakeKubeflow) -> None:
    fake.plays = [{"state": "CANCELED"}]
    status, output = follow(fake)
    assert (status, "the run ended as canceled" in output) == (1, True)


def test_a_run_that_does_not_exist_is_one_sentence(fake: FakeKubeflow) -> None:
    fake.plays = []
    status, output = follow(fake)
    assert status == 1
    assert "answered 404: Pipeline 00000000-0000-0000-0000-000000000000 not found" in output


def test_the_end_of_a_runs_url_is_enough(fake: FakeKubeflow) -> None:
    assert troika("follow", f"{fake.url}/#/runs/details/r7", "--host", fake.url)[0] == 0
    assert fake.asked("GET", "/runs/r7")


def test_an_interrupted_following_says_that_the_run_goes_on(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.follow.time.sleep", interrupt)
    fake.plays = [{"state": "RUNNING"}]
    status, output = submit(fake)
    assert status == 130
    assert "the run goes on: `troika follow r0`" in output


def exhausted() -> dict[str, Any]:
    """The recorded run with a second attempt of `train`, as its package allows one more."""
    run = copy.deepcopy(recorded(DELETED))
    tasks = run["run_details"]["task_details"]
    first = next(t for t in tasks if t["display_name"] == "executor(0)" and t["state"] == "FAILED")
    tasks.append(first | {"display_name": "executor(1)"})
    for entry in tasks:
        if entry["display_name"] == "executor" and entry.get("state") == "FAILED":
            entry["child_tasks"] = [*entry["child_tasks"], {"pod_name": node("root.train.executor(1)")}]
    return run


def node(name: str) -> str:
    value = 0x811C9DC5
    for byte in f"troika-train-and-release-pwncp.{name}".encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"troika-train-and-release-pwncp-{value}"


def model(run: dict[str, Any]) -> Any:
    """A recorded answer as the SDK reads it."""
    return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(run)), "V2beta1Run")
