"""Copies of KV blocks with memcpy on a CPU (vLLM 0.29 and 0.32), for vllm_cpu_worker.py.

Each row of a search copies the last block of its parent. On a CPU vLLM's `copy_kv_cache_blocks_inplace`
gathers and scatters single bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch


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
        blocks = _rows_of_blocks(cache, num_blocks)
        for source, target in kv_cache_block_copies:
            blocks[target] = blocks[source]


def _rows_of_blocks(cache: torch.Tensor, num_blocks: int) -> np.ndarray[Any, Any]:
    """Return a view of the memory of `cache` with a row of bytes per block; NumPy copies rows by memcpy."""
    if cache.device.type == "cpu" and cache.shape[0] % num_blocks == 0 and cache[0].is_contiguous():
        with suppress(RuntimeError):  # the kernel blocks of a block do not follow each other
            return cache.view(torch.uint8).view(num_blocks, -1).numpy()
    raise ValueError(
        f"a KV cache of shape {tuple(cache.shape)} and strides {cache.stride()} on {cache.device} "
        f"does not hold {num_blocks} contiguous blocks in memory; leave out worker_extension_cls."
    )
