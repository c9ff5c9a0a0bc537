"""The dashboard's queries name metrics that this project or Ray exports.

tests/slow/test_grafana_schema.py checks the file against Grafana's own schema.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from safety_ray.core import metrics

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
_METRIC = re.compile(r"\bray_\w+")


def exported() -> set[str]:
    """Return the metrics of this project, and those that Ray's own dashboards show."""
    ours = {f"ray_safety_stage_{name}_total" for name in metrics.COUNTERS} | {
        "ray_safety_stage_rows_expected"
    }
    ours |= set(_METRIC.findall((ROOT / "serve/metrics.py").read_text()))
    ours |= {f"{name}_bucket" for name in ours if name.endswith("p_tag")}
    panels = (Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards").glob("*_panels.py")
    return ours | {name for path in panels for name in _METRIC.findall(path.read_text())}


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_grafana_panel_queries_exported_metrics(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        names = set(_METRIC.findall(target["expr"]))
        assert names
        assert names <= exported()
        # One Prometheus may have the metrics of several clusters.
        assert target["expr"].count('SessionName=~"$session"') == target["expr"].count("{")
        assert target["expr"].count("(") == target["expr"].count(")")


def test_grafana_dashboard_shows_all_stage_and_endpoint_metrics() -> None:
    shown = {name for query in QUERIES for name in _METRIC.findall(query)}
    assert {name for name in exported() if name.startswith("ray_safety_stage")} <= shown
    assert len({name for name in shown if name.startswith("ray_safety") and "_stage_" not in name}) == 4


def test_grafana_variables_and_panels_are_consistent() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == defined
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24
