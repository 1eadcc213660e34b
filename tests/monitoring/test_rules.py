"""Every rule is tested, and every number in it: change one, and a test of promtool goes red."""

import re
import subprocess
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from promtool import RULES, TESTS, is_red, name_of, program, read_rules, rules_of, run_tests, sites_of
from quick import REPOSITORY

from troika.errors import ParameterError
from troika.monitor import write_plain_rules

FILES = read_rules()
ALERTS = [rule for groups in FILES.values() for rule in rules_of(groups) if "alert" in rule]


def test_a_plain_prometheus_takes_what_the_operator_takes(tmp_path: Path) -> None:
    written = write_plain_rules(RULES, tmp_path)
    assert [path.name for path in written] == sorted(FILES)
    for path in written:
        assert yaml.safe_load(path.read_text()) == {"groups": FILES[path.name]}
    command = [program("promtool"), "check", "rules", *map(str, written)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SUCCESS") == len(FILES)


def test_folders_without_rules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no PrometheusRule"):
        write_plain_rules(tmp_path, tmp_path / "out")
    (tmp_path / "broken.yaml").write_text("kind: PrometheusRule\nspec: 3\n")
    with pytest.raises(ParameterError, match=r"broken\.yaml is not a PrometheusRule"):
        write_plain_rules(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("file", FILES)
def test_promtool_tests_pass(file: str, promtool: str | Path, tmp_path: Path) -> None:
    done = run_tests(tmp_path, file, FILES[file], promtool)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_for_firing_and_for_staying_silent() -> None:
    cases: dict[str, set[bool]] = {}
    for path in TESTS.glob("*_test.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                for name in {name_of(rule) for rule in ALERTS}:
                    alert, _, burn = name.partition(" ")
                    if f'alertname="{alert}"' in case["expr"] and (not burn or f'burn="{burn}"' in case["expr"]):
                        cases.setdefault(name, set()).add(bool(case["exp_samples"]))
                        # Other series than those expected are a failure too, so these tell what stays silent.
                        if case["exp_samples"] and len(test["input_series"]) > len(case["exp_samples"]):
                            cases[name].add(False)
    assert cases == {name_of(rule): {True, False} for rule in ALERTS}


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("file", FILES)
def test_no_number_can_be_changed_unnoticed(file: str, up: bool, tmp_path: Path) -> None:
    """One number of each rule is changed at a time: alerts apart from records, which alerts may stand on."""
    for kind in ("record", "alert"):
        rules = [rule for rule in rules_of(FILES[file]) if kind in rule]
        rounds = list(zip_longest(*(sites_of(rule) for rule in rules)))
        assert rounds or not rules
        for number, sites in enumerate(rounds):
            at = {id(rule): site for rule, site in zip(rules, sites, strict=True) if site}

            def changed(rule: dict[str, Any], at: dict[int, Any] = at) -> dict[str, Any]:
                return at[id(rule)].changed(rule, up) if id(rule) in at else rule

            groups = [{**group, "rules": list(map(changed, group["rules"]))} for group in FILES[file]]
            done = run_tests(tmp_path / f"{kind}{number}", file, groups)
            unnoticed = [
                f"{name_of(rule)}: {at[id(rule)]}"
                for rule in rules
                if id(rule) in at and not is_red(rule, done.stdout + done.stderr)
            ]
            assert unnoticed == []


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_every_alert_has_a_severity_words_and_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page = REPOSITORY / rule["annotations"]["runbook"]
    assert page.stem == rule["alert"]
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    for part in ("## What it means", "## What to do first", "## How to tell what is wrong", "## When it is over"):
        assert part in text


def test_every_page_that_is_linked_exists_and_every_runbook_is_in_the_list() -> None:
    docs = REPOSITORY / "docs"
    pages = [docs / "guides" / "monitoring.md", docs / "guides" / "on-call.md", *(docs / "runbooks").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    listed = (docs / "runbooks" / "README.md").read_text()
    assert all(f"({rule['alert']}.md)" in listed for rule in ALERTS)


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {path.stem for path in (REPOSITORY / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in ALERTS}
