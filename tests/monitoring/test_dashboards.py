"""Dashboards are what their code makes, can be read back by Grafana's own types, and show what is there."""

import importlib.util
import json
from types import ModuleType

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard
from names import DASHBOARDS, MANIFESTS, dashboard_expressions


@pytest.fixture(scope="module")
def code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", MANIFESTS / "monitoring" / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_code_makes(code: ModuleType) -> None:
    made = {name: code.encode(make()) for name, make in code.DASHBOARDS.items()}
    assert {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")} == made


@pytest.mark.parametrize("name", ["service.json", "model-quality.json", "pipeline.json"])
def test_grafanas_model_holds_all_of_it(name: str) -> None:
    raw = json.loads((DASHBOARDS / name).read_text())
    board = Dashboard.from_json(raw)
    assert board.uid == raw["uid"]
    assert board.panels is not None
    assert len(board.panels) == len(raw["panels"])
    panels = [panel for panel in raw["panels"] if panel["type"] != "row"]
    assert len(panels) >= 7
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert {variable["name"] for variable in raw["templating"]["list"]} == {"datasource", "namespace", "model"}
    assert len(dashboard_expressions(raw)) >= len(panels)
