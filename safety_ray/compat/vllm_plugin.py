"""What vLLM runs in every process of an engine: entry point `vllm.general_plugins` in pyproject.toml."""

from __future__ import annotations

from safety_ray.compat.amx import request_amx
from safety_ray.compat.killed_children import report_killed_children


def register() -> None:
    """Allow AMX kernels in this process, and report child processes that a signal kills.

    Where Linux refuses AMX, `safety_ray.device.cpu_dtype` has chosen float32 and said so.
    """
    request_amx()
    report_killed_children()
