"""Rules, their promtool tests, and what happens to the tests when a rule is changed."""

import copy
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import REPOSITORY

RULES = REPOSITORY / "manifests" / "monitoring" / "rules"
TESTS = REPOSITORY / "manifests" / "monitoring" / "tests"
Groups = list[dict[str, Any]]


def program(name: str) -> str:
    """A program of Debian's package prometheus; skips the test without it, but never in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {name} (Debian package prometheus)")
        pytest.skip(f"{name} is not installed (Debian package prometheus)")
    return found


def promtool_3(folder: Path) -> Path:
    """Return promtool of Prometheus 3, unpacked into `folder`; skips the test without it, but never in CI."""
    packed = Path(os.environ.get("TROIKA_TEST_KUBERNETES", ""), "promtool.xz")
    if not packed.is_file():
        reason = "TROIKA_TEST_KUBERNETES names no folder with promtool.xz of Prometheus 3"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have it: {reason}")
        pytest.skip(reason)
    program = folder / "promtool"
    with lzma.open(packed) as source, program.open("wb") as target:
        shutil.copyfileobj(source, target)
    program.chmod(0o755)
    return program


def read_rules() -> dict[str, Groups]:
    """File name -> its groups."""
    found = {path.name: yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))}
    return {name: rule["spec"]["groups"] for name, rule in found.items() if rule["kind"] == "PrometheusRule"}


def rules_of(groups: Groups) -> Iterator[dict[str, Any]]:
    for group in groups:
        yield from group["rules"]


def name_of(rule: dict[str, Any]) -> str:
    """Of the alerts of one name, each has a burn rate of its own."""
    name = rule.get("alert") or rule["record"]
    burn = rule.get("labels", {}).get("burn")
    return f"{name} {burn}" if burn else name


def run_tests(
    folder: Path, file: str, groups: Groups, promtool: str | Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run promtool's own tests of a rule file against `groups`."""
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(yaml.safe_dump({"groups": groups}, sort_keys=False))
    tests = sorted(TESTS.glob(f"{Path(file).stem}_*test.yaml"))
    for path in tests:
        shutil.copy(path, folder)
    command = [promtool or program("promtool"), "test", "rules", *(path.name for path in tests)]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)


def is_red(rule: dict[str, Any], output: str) -> bool:
    """Whether promtool's output tells of a failed test of this rule."""
    failed = re.findall(r'expr: "(.*?[^\\])", time', output.replace('\\"', "'"))
    if "record" in rule:
        return any(re.search(rf"\b{re.escape(rule['record'])}\b", expression) for expression in failed)
    burn = rule["labels"].get("burn")
    return any(
        f"alertname='{rule['alert']}'" in expression and (burn is None or f"burn='{burn}'" in expression)
        for expression in failed
    )


@dataclass(frozen=True)
class Site:
    """A number in a rule: in its expression from `start` to `end`, or the time that it must hold for."""

    start: int
    end: int
    text: str
    field: str = "expr"

    def changed(self, rule: dict[str, Any], up: bool) -> dict[str, Any]:
        """The rule with this number a tenth (a small whole one by 1) off, or this time twice or half as long."""
        new = copy.deepcopy(rule)
        if self.field == "for":
            new["for"] = _time(self.text, up)
            return new
        if duration := re.fullmatch(r"\[(.+)\]", self.text):
            text = f"[{_time(duration[1], up)}]"
        elif offset := re.fullmatch(r"offset (.+)", self.text):
            text = f"offset {_time(offset[1], up)}"
        elif bound := re.fullmatch(r'le="(.+)"', self.text):
            text = f'le="{float(bound[1]) * 2:g}"' if up else 'le="0"'
        else:
            value = float(self.text)
            # Small whole numbers are compared with whole numbers, of which only the next one differs.
            whole = value == int(value) and value < 10
            text = repr(value + (1 if up else -1) if whole else value * (1.1 if up else 0.9))
        new["expr"] = rule["expr"][: self.start] + text + rule["expr"][self.end :]
        return new


_SITE = re.compile(
    r'\[\d+[smhd]\]|offset \d+[smhd]|le="[\d.]+"|"[^"]*"|\b[A-Za-z_:][\w:]*|(?P<number>\d+(?:\.\d+)?(?:e\d+)?)'
)


def sites_of(rule: dict[str, Any]) -> list[Site]:
    """Every number of a rule that somebody could change."""
    found = [
        Site(match.start(), match.end(), match[0])
        for match in _SITE.finditer(rule["expr"])
        if match["number"] or match[0].startswith(("[", "offset ", "le="))
    ]
    return [*found, *([Site(0, 0, rule["for"], "for")] if "for" in rule else [])]


def _time(text: str, up: bool) -> str:
    seconds = int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]
    return f"{seconds * 2 if up else seconds // 2}s"
