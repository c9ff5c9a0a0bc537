"""No pinned package has a known vulnerability, as far as pip-audit can reach a database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from own_environment import beside

pytestmark = pytest.mark.covers("safety_ray", "jobs", "serve")
ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "15",
]  # fmt: skip
LEFT_OUT = "torch-cpu.txt"
"""PyTorch's own builds of the version in cpu.txt, which databases know without `+cpu`."""


def test_pins_have_no_known_vulnerabilities(pytestconfig: pytest.Config) -> None:
    pip_audit = beside(pytestconfig.cache.mkdir("audit"), "tests.txt")
    environment = {**os.environ, "PYTHONPATH": str(pip_audit)}
    names = {path.name for path in (ROOT / "requirements").iterdir()}
    assert LEFT_OUT in names
    packages: list[dict[str, Any]] = []
    for name in sorted(names - {LEFT_OUT}):  # one at a time: pip-audit refuses two versions of a package
        command = [sys.executable, "-m", "pip_audit", "-r", f"requirements/{name}", *ARGUMENTS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        try:
            packages += json.loads(done.stdout)["dependencies"]
        except ValueError:
            pytest.skip(f"pip-audit reaches no database: {name}: {done.stderr.strip().splitlines()[-1:]}")
        audited = [package for package in packages if "skip_reason" not in package]
        if not audited:
            pytest.skip(f"pip-audit reaches no database: {packages[0]['skip_reason']}")
    unknown = sorted({package["name"] for package in packages if "skip_reason" in package})
    number = len({(package["name"], package["version"]) for package in audited})
    print(f"{number} packages audited; not in the database: {', '.join(unknown) or 'none'}")
    vulnerable = {
        f"{package['name']} {package['version']}: {bug['id']}, fixed in {bug['fix_versions']}"
        for package in audited
        for bug in package["vulns"]
    }
    assert vulnerable == set()
