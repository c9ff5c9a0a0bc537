"""An environment of evaluation harnesses beside this project's, whose pinned packages theirs contradict."""

from __future__ import annotations

from pathlib import Path

import transformers
from own_environment import own_environment

REQUIREMENTS = (
    "lm-eval[api]==0.4.13",
    f"transformers=={transformers.__version__}",  # the tokenizer, by the same version; needs no torch
    "inspect-ai==0.3.285",
    "openai",
)


def harness_environment(cache: Path) -> Path:
    """Return the folder of the harnesses' programs; see `own_environment`."""
    return own_environment(cache, "harnesses", REQUIREMENTS)
