"""An environment beside this project's, for programs that a test needs and the project does not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest


def own_environment(cache: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """Return the folder of the environment's programs. The first call installs it below `cache`, with pip.

    Skips the test if the packages cannot be installed, for example without a package index.
    """
    digest = hashlib.sha256(" ".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    finished = folder / "installed"
    if not finished.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements]
        installed = subprocess.run(pip, capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"{name} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
        finished.touch()
    return folder / "bin"
