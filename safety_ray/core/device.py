"""Devices: whether a stage uses GPUs, dtypes and casts, and vLLM's settings for a CPU."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from safety_ray.compat.amx import amx_supported, request_amx

logger = logging.getLogger(__name__)


def uses_gpus(device: str, gpus: float, needed: int = 0) -> bool:
    """Return whether a setting `device` (auto, cpu or gpu) means GPUs in a cluster that has `gpus` now.

    `auto` does if there are any, and at least `needed`.
    """
    return device == "gpu" or (device == "auto" and gpus > 0 and gpus >= needed)


@cache
def fast_bf16(device: str) -> bool:
    """Return whether bfloat16 matrix products are native on `device` (cpu, cuda, cuda:1), hence fast.

    Emulated ones are many times slower than float32: 15 times on a processor with AVX2.
    """
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def cast_parameters(model: Any, dtype: Any) -> None:
    """Cast the parameters of a torch module to `dtype`, in place, but not its buffers.

    `model.to(dtype)` also casts buffers, among them the frequencies of rotary embeddings. In bfloat16 these
    are off by up to 0.4 %, which adds up to wrong positions in long texts.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def cpu_dtype() -> str:
    """Return the fastest dtype for vLLM on this machine's CPU, as a torch name."""
    if not fast_bf16("cpu"):
        return "float32"
    if amx_supported() and not request_amx():
        logger.warning(
            "vLLM uses float32: its bfloat16 kernels need AMX tiles, which Linux does not permit here."
        )
        return "float32"
    return "bfloat16"


def cpu_engine_args() -> dict[str, Any]:
    """Return vLLM's engine arguments for this machine's CPU."""
    return {
        "dtype": cpu_dtype(),
        "enforce_eager": True,
        "distributed_executor_backend": "mp",
        # With chunked prefill, a request with its own seed ends the CPU engine of vLLM 0.29: after each
        # chunk it resets the offset of the request's generator, but a CPU generator has no offset.
        "enable_chunked_prefill": False,
    }
