"""Copy KV blocks with memcpy on a CPU (a worker extension for vLLM 0.29 and 0.32).

    LLM(..., worker_extension_cls="safety_ray.compat.vllm_block_copies.BlockCopies")   # on CPUs only

Each row of a search copies the last block of its parent. On a CPU vLLM's `copy_kv_cache_blocks_inplace`
gathers and scatters single bytes. vLLM imports a worker extension in each worker process, after the module
of the worker and before the worker is made. There is no setting for the function, so this module replaces it
when it is imported: where model runner V1 has imported it already, and where V2 will import it from later.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from vllm.v1.worker import gpu_model_runner, utils

from safety_ray.compat.versions import ENGINE_TESTED, check_versions

ORIGINAL = utils.copy_kv_cache_blocks_inplace
"""vLLM's own function, for comparison."""


class BlockCopies:
    """A worker extension without methods: vLLM imports its module in each worker."""


def copy_blocks(
    kv_caches: Iterable[torch.Tensor], num_blocks: int, kv_cache_block_copies: Sequence[tuple[int, int]]
) -> None:
    """Copy blocks (source, target) of each layer's cache, whose first dimension is that of the blocks.

    The cache may have several kernel blocks per block of the scheduler. A source is never a target of the
    same step. Raises ValueError for another layout.
    """
    seen: set[int] = set()
    for cache in kv_caches:
        if cache.data_ptr() in seen:  # layers that share their keys and values
            continue
        seen.add(cache.data_ptr())
        if cache.device.type != "cpu" or cache.shape[0] % num_blocks or not cache[0].is_contiguous():
            raise ValueError(
                f"a KV cache of shape {tuple(cache.shape)} and strides {cache.stride()} on {cache.device} "
                f"does not hold {num_blocks} contiguous blocks in memory; leave out worker_extension_cls."
            )
        per_block = cache.shape[0] // num_blocks
        for source, target in kv_cache_block_copies:
            cache.narrow(0, target * per_block, per_block).copy_(
                cache.narrow(0, source * per_block, per_block)
            )


def _replace_block_copies() -> None:
    check_versions("vllm", tested=ENGINE_TESTED)
    modules: list[Any] = [gpu_model_runner, utils, sys.modules.get("vllm.v1.worker.gpu.model_runner")]
    for module in modules:
        if module is not None:
            module.copy_kv_cache_blocks_inplace = copy_blocks


_replace_block_copies()
