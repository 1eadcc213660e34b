"""Recurring runs: what is declared, what is refused before anything changes, and which version they run."""

from pathlib import Path
from typing import Any

import pytest
from kubeflow_commands import ARGUMENTS, declare, recurring, submit, troika
from pipelines_fake import FakeKubeflow, recorded

from pipelines.cron import six_fields
from pipelines.graph import PIPELINE_NAME
from pipelines.recurring import read_recurring
from troika.errors import ParameterError

NIGHTLY = {"cron": "0 0 2 * * *", "arguments": ARGUMENTS}
OTHER_IMAGE = ("--image", "registry.test/train@sha256:01")


def by_name(fake: FakeKubeflow) -> dict[str, dict[str, Any]]:
    found = {run["display_name"]: run for run in fake.recurring.values()}
    assert len(found) == len(fake.recurring), "two of a name"
    return found


def pins(fake: FakeKubeflow) -> dict[str, str]:
    return {name: run["pipeline_version_reference"]["pipeline_version_id"] for name, run in by_name(fake).items()}


def test_recurring_runs_become_those_that_are_declared(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    fake.recurring["by-hand"] = {"recurring_run_id": "by-hand", "display_name": "mine", "description": "by hand"}
    weekly = {"cron": "0 3 * * sun", "arguments": {**ARGUMENTS, "seed": 1}}
    status, output = recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY, weekly=weekly))
    assert status == 0, output
    made = by_name(fake)
    assert set(made) == {"mine", "nightly", "weekly"}
    assert made["nightly"]["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert made["weekly"]["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * sun"
    assert made["weekly"]["runtime_config"]["parameters"]["seed"] == 1
    before = dict(fake.recurring)
    _, output = recurring(fake, tmp_path / "a.yaml")
    assert fake.recurring == before
    assert output.count("unchanged") == 2
    recurring(fake, declare(tmp_path / "b.yaml", nightly={**NIGHTLY, "cron": "0 30 2 * * *"}))
    left = by_name(fake)
    assert set(left) == {"mine", "nightly"}
    assert left["nightly"]["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * *"


def test_the_account_is_part_of_a_declaration(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    path = declare(tmp_path / "a.yaml", nightly=NIGHTLY)
    for account in ("troika-pipeline", "another"):
        assert recurring(fake, path, "--service-account", account)[0] == 0
        assert by_name(fake)["nightly"]["service_account"] == account


def test_a_newer_version_is_taken_when_it_is_promoted_and_not_before(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    path = declare(tmp_path / "a.yaml", nightly=NIGHTLY, weekly={**NIGHTLY, "cron": "@weekly"})
    recurring(fake, path, "--service-account", "troika-pipeline")
    submit(fake, *OTHER_IMAGE)
    recurring(fake, path, "--service-account", "troika-pipeline")
    assert pins(fake) == {"nightly": "v0", "weekly": "v0"}
    status, output = recurring(fake, "promote", "--only", "weekly")
    assert status == 0, output
    assert pins(fake) == {"nightly": "v0", "weekly": "v1"}
    old, new = [version["name"] for version in fake.versions.values()]
    assert f"weekly               {old} -> {new}" in output
    recurring(fake, "promote")
    assert pins(fake) == {"nightly": "v1", "weekly": "v1"}
    assert by_name(fake)["weekly"]["trigger"]["cron_schedule"]["cron"] == "@weekly"
    assert by_name(fake)["weekly"]["service_account"] == "troika-pipeline"
    # A promoted one stays where it is when its file is applied again, and a name moves it back.
    recurring(fake, path, "--service-account", "troika-pipeline")
    assert pins(fake) == {"nightly": "v1", "weekly": "v1"}
    recurring(fake, "promote", old)
    assert pins(fake) == {"nightly": "v0", "weekly": "v0"}
    status, output = recurring(fake, "promote", "no-such")
    assert (status, f"promote: there is no version 'no-such'; the newest are {new}, {old}" in output) == (1, True)


def test_a_file_may_pin_the_version(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    submit(fake, *OTHER_IMAGE)
    old, new = [version["name"] for version in fake.versions.values()]
    recurring(fake, declare(tmp_path / "a.yaml", nightly={**NIGHTLY, "version": old}))
    assert pins(fake) == {"nightly": "v0"}
    status, output = recurring(fake, "promote")
    assert (status, pins(fake)) == (0, {"nightly": "v0"})
    assert "its file names the version" in output
    assert recurring(fake, "promote", "--only", "nightly")[0] == 1
    recurring(fake, declare(tmp_path / "a.yaml", nightly={**NIGHTLY, "version": new}))
    assert pins(fake) == {"nightly": "v1"}


def test_a_paused_run_stays_paused_when_it_is_promoted(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly={**NIGHTLY, "enabled": False}))
    submit(fake, *OTHER_IMAGE)
    recurring(fake, "promote")
    assert by_name(fake)["nightly"]["mode"] == "DISABLE"


def test_a_refused_change_keeps_the_old_one(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    before = dict(fake.recurring)
    fake.refuse_recurring = True
    status, output = recurring(fake, declare(tmp_path / "b.yaml", nightly={**NIGHTLY, "cron": "0 0 3 * * *"}))
    assert (status, fake.recurring) == (1, before)
    assert "nightly: not made, and what was there is as it was" in output
    assert "parameter environment is not optional" in output


@pytest.mark.parametrize("answer", [{}, {"error": "login required"}])
def test_an_answer_that_made_nothing_keeps_the_old_one(
    fake: FakeKubeflow, tmp_path: Path, answer: dict[str, Any]
) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    before = dict(fake.recurring)
    for command in ([declare(tmp_path / "b.yaml", nightly={**NIGHTLY, "cron": "0 0 3 * * *"})], ["promote"]):
        fake.fault_of["POST /recurringruns"] = answer
        submit(fake, *OTHER_IMAGE)
        status, output = recurring(fake, *command)
        assert (status, fake.recurring) == (1, before), output
        assert "an answer without recurring_run_id" in output


def test_what_an_interrupted_promotion_left_is_put_right(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    submit(fake, *OTHER_IMAGE)
    (identity,) = fake.recurring
    fake.fault_of[f"DELETE /recurringruns/{identity}"] = 400
    status, output = recurring(fake, "promote")
    assert (status, "the same command again deletes it" in output) == (1, True)
    assert len(fake.recurring) == 2
    fake.recurring = dict(reversed(fake.recurring.items()))  # the order of the list is the server's
    assert recurring(fake, "promote")[0] == 0
    assert pins(fake) == {"nightly": "v1"}


@pytest.mark.parametrize("declared", [True, False])
def test_what_was_paused_or_resumed_by_hand_is_put_right(
    fake: FakeKubeflow, tmp_path: Path, declared: bool
) -> None:
    submit(fake)
    path = declare(tmp_path / "a.yaml", nightly={**NIGHTLY, "enabled": declared})
    recurring(fake, path)
    (run,) = fake.recurring.values()
    run["mode"] = "DISABLE" if declared else "ENABLE"
    output = recurring(fake, path)[1]
    assert by_name(fake)["nightly"]["mode"] == ("ENABLE" if declared else "DISABLE")
    assert "changed" in output


def test_a_paused_run_stays_paused_whatever_its_status_was(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly={**NIGHTLY, "enabled": False}))
    (run,) = fake.recurring.values()
    run["status"] = "ENABLED"  # Kubeflow's last word on its controller, which may be older
    submit(fake, *OTHER_IMAGE)
    recurring(fake, "promote")
    assert by_name(fake)["nightly"]["mode"] == "DISABLE"


def test_an_impossible_declaration_changes_nothing(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    before, asked = dict(fake.recurring), len(fake.paths)
    for bad in ({"cron": "0 0 25 * * *"}, {"arguments": {**ARGUMENTS, "nonsense": 1}}):
        changed = {**NIGHTLY, "cron": "0 0 4 * * *"}
        status, output = recurring(fake, declare(tmp_path / "b.yaml", nightly=changed, weekly={**NIGHTLY, **bad}))
        assert (status, fake.recurring, len(fake.paths)) == (1, before, asked), output
        assert "weekly" in output


def test_a_version_whose_form_is_another_is_seen_before_anything_changes(
    fake: FakeKubeflow, tmp_path: Path
) -> None:
    submit(fake)
    recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    before = dict(fake.recurring)
    root = fake.versions["v0"]["pipeline_spec"]["pipeline_spec"]["root"]
    root["inputDefinitions"]["parameters"]["region"] = {"parameterType": "STRING"}
    status, output = recurring(fake, declare(tmp_path / "b.yaml", nightly={**NIGHTLY, "cron": "@daily"}))
    assert (status, fake.recurring) == (1, before)
    assert "region must be given" in output


def test_what_an_interrupted_change_left_is_put_right(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    path = declare(tmp_path / "a.yaml", nightly=NIGHTLY)
    recurring(fake, path)
    (identity,) = fake.recurring
    fake.recurring["left-over"] = {
        **fake.recurring[identity],
        "recurring_run_id": "left-over",
        "description": fake.recurring[identity]["description"][:-4] + "0000",
    }
    recurring(fake, path)
    assert list(fake.recurring) == [identity]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 2 * *"}, "cron: expected five fields .* or six"),
        ({"cron": "0 0 25 * * *"}, "hour '25': expected 0 to 23"),
        ({"cron": 5}, "cron"),
        ({"arguments": {"store": "s3://models"}}, "release_remote, environment must be given"),
        ({"arguments": {**ARGUMENTS, "steps": "many"}}, "steps must be a whole number, not 'many'"),
        ({"arguments": {**ARGUMENTS, "environment": 3}}, "environment must be text, not 3"),
        ({"arguments": {**ARGUMENTS, "sede": 3}}, "no argument 'sede'"),
        ({"every": "day"}, "every: unknown key"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_a_wrong_declaration_names_its_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert set(read_recurring(declare(tmp_path / "good.yaml", nightly=NIGHTLY))) == {"nightly"}
    with pytest.raises(ParameterError, match=message):
        read_recurring(declare(tmp_path / "bad.yaml", nightly={**NIGHTLY, **changes}))


@pytest.mark.parametrize("name", ["1", "''", "'a\\tb'", "x" * 101])
def test_a_wrong_name_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"{name}:\n  cron: '@daily'\n".replace("'a\\tb'", '"a\\tb"'))
    with pytest.raises(ParameterError, match="is no name of a recurring run"):
        read_recurring(path)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("0 0 2 * * *", "0 0 2 * * *"),
        ("0 2 * * *", "0 0 2 * * *"),
        ("*/15 8-18 1,15 jan-jun MON-fri", "0 */15 8-18 1,15 jan-jun MON-fri"),
        ("0  0   2 * * ?", "0 0 2 * * ?"),
        ("30 5/10 0 29 2 *", "30 5/10 0 29 2 *"),
        ("0 0 0 31 2 mon", "0 0 0 31 2 mon"),
        ("@daily", "@daily"),
        ("@every 12h30m", "@every 12h30m"),
    ],
)
def test_schedules_are_sent_with_seconds(given: str, sent: str) -> None:
    assert six_fields(given) == sent


@pytest.mark.parametrize(
    "schedule",
    [
        "", "* * * *", "0 0 0 0 * * *", "0 0 25 * * *", "60 0 0 * * *", "0 60 0 * * *", "0 0 0 0 * *",
        "0 0 0 32 * *", "0 0 0 * 0 *", "0 0 0 * 13 *", "0 0 0 * * 7", "0 0 0 * * -1", "0 0 0 * * L",
        "0 0 0 1,, * *", "0 0 0 5-3 * *", "0 */0 0 * * *", "0 */ 0 * * *", "0 0 0 * foo *", "0 0 0 30 2 *",
        "0 0 0 31 4,6,9,11 *", "0 0 31 2 */2", "0 0 31 2 *,mon", "@every 0s", "@every 0h0m",
        "@often", "@every", "@every 5", "0 0 ٣ * * *", "0 0 1.5 * * *",
    ],
)  # fmt: skip
def test_what_kubeflow_refuses_or_never_starts_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"expected|never start|begins after|has no end|after the"):
        six_fields(schedule)


def test_recurring_runs_need_an_uploaded_pipeline(fake: FakeKubeflow, tmp_path: Path) -> None:
    status, output = recurring(fake, declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    assert (status, "`troika submit` uploads it" in output) == (1, True)
    fake.add_pipeline(PIPELINE_NAME, None)  # another user's, shared by all namespaces
    status, output = recurring(fake, tmp_path / "a.yaml")
    assert (status, "`troika submit` uploads it" in output) == (1, True)


def test_a_pin_to_another_users_pipeline_is_moved_to_ours(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    path = declare(tmp_path / "a.yaml", nightly=NIGHTLY)
    recurring(fake, path)
    (run,) = fake.recurring.values()
    run["pipeline_version_reference"] = {"pipeline_id": "shared"}  # as earlier versions of this command made them
    assert "changed" in recurring(fake, path)[1]
    assert pins(fake) == {"nightly": "v0"}


def test_failed_recurring_runs_with_a_lost_pod_are_tried_again(fake: FakeKubeflow) -> None:
    submit(fake)
    fake.runs = {
        "old": {"state": "FAILED", "recurring_run_id": "c0", "created_at": "2026-11-27T02:00:00Z"},
        "new": {"state": "FAILED", "recurring_run_id": "c0", "created_at": "2026-11-28T02:00:00Z"},
        "fine": {"state": "SUCCEEDED", "recurring_run_id": "c1", "created_at": "2026-11-28T02:00:00Z"},
        "by-hand": {"state": "FAILED", "created_at": "2026-11-28T02:00:00Z"},
    }
    fake.plays = [recorded("run_train_pod_deleted")]
    status, output = recurring(fake, "retry")
    assert status == 0, output
    assert [path.split("/")[-1] for path in fake.asked("POST", "/runs/")] == ["new:retry?"]
    assert "1 of 2 newest runs of recurring runs tried again" in output
    fake.plays = [recorded("run_first_driver_without_token")]
    assert "0 of 2" in recurring(fake, "retry")[1]


def test_the_old_way_to_call_it_still_applies_a_file(fake: FakeKubeflow, tmp_path: Path) -> None:
    submit(fake)
    path = str(declare(tmp_path / "a.yaml", nightly=NIGHTLY))
    assert troika("recurring", "--host", fake.url, path)[0] == 0
    assert troika("recurring", "apply", path, "--host", fake.url)[0] == 0
    assert set(by_name(fake)) == {"nightly"}
