"""Formats in which vLLM may load the weights of a model: those whose files cannot contain code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safety_ray.core.errors import UserError

DEFAULT_LOAD_FORMAT = "safetensors"
"""vLLM's own default falls back to weights in pickle files"""
LOAD_FORMATS = (
    DEFAULT_LOAD_FORMAT,
    "fastsafetensors",
    "mistral",
    "runai_streamer",
    "runai_streamer_sharded",
    "sharded_state",
    "dummy",
)


def check_load_format(engine_args: Mapping[str, Any], where: str) -> None:
    """Raise UserError if vLLM could load pickle files. `where`: the setting that has the arguments."""
    chosen = engine_args.get("load_format", DEFAULT_LOAD_FORMAT)
    if chosen not in LOAD_FORMATS:
        raise UserError(
            f"{where}.load_format={chosen}: pickle files can run code; choose from {', '.join(LOAD_FORMATS)}."
        )
