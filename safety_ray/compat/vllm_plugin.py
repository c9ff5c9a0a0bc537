"""vLLM plugin, loaded in every process of an engine: entry point `vllm.general_plugins` in pyproject.toml."""

from __future__ import annotations

from safety_ray.compat.amx import request_amx
from safety_ray.compat.killed_children import report_killed_children


def register() -> None:
    """Request AMX permission for this process, and report child processes killed by a signal.

    If Linux refuses AMX, `safety_ray.core.device.cpu_dtype` has already chosen float32 and logged a warning.
    """
    request_amx()
    report_killed_children()
