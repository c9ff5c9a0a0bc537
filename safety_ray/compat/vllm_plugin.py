"""What vLLM runs in every process of an engine: entry point `vllm.general_plugins` in pyproject.toml."""

from __future__ import annotations

import logging

from safety_ray.compat.amx import amx_supported, request_amx
from safety_ray.compat.killed_children import report_killed_children

logger = logging.getLogger(__name__)


def register() -> None:
    """Make this process fit for AMX kernels, and report child processes that a signal kills."""
    if amx_supported() and not request_amx():
        logger.error("Linux refuses AMX tiles to this process: bfloat16 may end it with SIGILL; use float32.")
    report_killed_children()
