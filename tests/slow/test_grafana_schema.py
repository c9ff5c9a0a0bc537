"""deploy/grafana.json has only fields that Grafana's own schema has.

The schema is that of Grafana's SDK for dashboards, which is generated from Grafana's definitions: it reads
the file and writes it again, and drops what it does not know.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from own_environment import beside

pytestmark = pytest.mark.covers("safety_ray.core.metrics", "serve")
DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana.json"
PROGRAM = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> Path:
    """The folder of Grafana's SDK."""
    return beside(pytestconfig.cache.mkdir("grafana"), "tests.txt")


def known_by_grafana(packages: Path, dashboard: Any) -> Any:
    """Return what Grafana's schema keeps of a dashboard, with the defaults of the schema."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": str(packages)},
        input=json.dumps(dashboard), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def dropped(given: Any, kept: Any, path: str = "") -> list[str]:
    """Return the paths of the values of `given` that `kept` lacks or has changed."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            line for key, value in given.items() for line in dropped(value, kept.get(key), f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [line for n, pair in pairs for line in dropped(*pair, f"{path}[{n}]")]
    return [] if given == kept else [path]


def test_grafana_dashboard_passes_schema_of_grafana(packages: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dropped(dashboard, known_by_grafana(packages, dashboard)) == []


def test_grafana_schema_drops_unknown_fields(packages: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    dashboard["colour"] = "x"
    dashboard["panels"][1]["targets"][0]["expression"] = "x"
    kept = known_by_grafana(packages, dashboard)
    assert sorted(dropped(dashboard, kept)) == [".colour", ".panels[1].targets[0].expression"]
