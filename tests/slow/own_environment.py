"""Packages that a test needs and the project does not: in an environment of their own, or beside this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def own_environment(cache: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """Return the folder of the environment's programs. The first call installs it below `cache`, with pip.

    Skips the test if the packages cannot be installed, for example without a package index.
    """
    digest = hashlib.sha256(" ".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    finished = folder / "installed"
    if not finished.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _install([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements], name)
        finished.touch()
    return folder / "bin"


def beside(cache: Path, *lists: str) -> Path:
    """Return a folder for PYTHONPATH with the packages of the lists, for example `tests.txt`.

    The first call installs it below `cache`. Skips the test if the packages cannot be installed.
    """
    files = [ROOT / "requirements" / name for name in lists]
    digest = hashlib.sha256("\n".join((sys.version, *(file.read_text() for file in files))).encode())
    folder = cache / f"{'-'.join(file.stem for file in files)}-{digest.hexdigest()[:12]}"
    finished = folder / "installed"
    if not finished.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        named = [word for file in files for word in ("-r", str(file))]
        _install([*pip, "--target", str(folder), *named], " and ".join(lists))
        finished.touch()
    return folder


def _install(command: list[str], name: str) -> None:
    installed = subprocess.run(command, capture_output=True, text=True)
    assert "DO NOT MATCH THE HASHES" not in installed.stderr, installed.stderr
    if installed.returncode:
        pytest.skip(f"{name} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
