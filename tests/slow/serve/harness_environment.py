"""An environment of evaluation harnesses beside this project's, whose pinned packages theirs contradict."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

REQUIREMENTS = (
    "lm-eval[api]==0.4.13",
    f"transformers=={transformers.__version__}",  # the tokenizer, by the same version; needs no torch
    "inspect-ai==0.3.285",
    "openai",
)


def harness_environment(cache: Path) -> Path:
    """Return the folder of the environment's programs. The first call installs it below `cache`, with pip.

    Skips the test if the packages cannot be installed, for example without a package index.
    """
    digest = hashlib.sha256(" ".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:12]
    folder = cache / f"harnesses-{digest}"
    finished = folder / "installed"
    if not finished.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        installed = subprocess.run(pip, capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"the harnesses cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
        finished.touch()
    return folder / "bin"
