"""No pinned package has a known vulnerability, as far as pip-audit can reach a database."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from own_environment import own_environment

pytestmark = pytest.mark.covers("safety_ray", "jobs", "serve")
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("pip-audit==2.10.1",)
ARGUMENTS = [
    "-r", "requirements/cpu.txt", "--require-hashes", "--disable-pip", "--progress-spinner", "off",
    "--format", "json", "--timeout", "15",
]  # fmt: skip


def test_pins_have_no_known_vulnerabilities(pytestconfig: pytest.Config) -> None:
    programs = own_environment(pytestconfig.cache.mkdir("audit"), "pip-audit", REQUIREMENTS)
    done = subprocess.run([programs / "pip-audit", *ARGUMENTS], cwd=ROOT, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        pytest.skip(f"pip-audit reaches no database: {done.stderr.strip().splitlines()[-1:]}")
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        pytest.skip(f"pip-audit reaches no database: {packages[0]['skip_reason']}")
    unknown = sorted(package["name"] for package in packages if "skip_reason" in package)
    print(f"{len(audited)} packages audited; not in the database: {', '.join(unknown) or 'none'}")
    vulnerable = [
        f"{package['name']} {package['version']}: {bug['id']}, fixed in {bug['fix_versions']}"
        for package in audited
        for bug in package["vulns"]
    ]
    assert vulnerable == []
