"""What the processors of this machine are good at."""

from __future__ import annotations

from functools import cache


@cache
def fast_bf16(device: str) -> bool:
    """Whether bfloat16 matrix products are native on `device` (cpu, cuda, cuda:1), so that they are faster.

    Where they are emulated they are many times slower than float32: 15 times on a processor with AVX2.
    """
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def cpu_dtype() -> str:
    """The dtype that vLLM computes in fastest on this machine's CPU, by torch's name."""
    return "bfloat16" if fast_bf16("cpu") else "float32"
