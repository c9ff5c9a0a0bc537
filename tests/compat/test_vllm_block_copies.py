"""Copies of KV blocks, compared with vLLM's own function."""

from __future__ import annotations

import pytest
import torch


def test_copy_blocks_matches_vllm() -> None:
    from vllm.v1.worker.utils import copy_kv_cache_blocks_inplace

    from safety_ray.compat.vllm_block_copies import copy_blocks

    assert copy_kv_cache_blocks_inplace is not copy_blocks

    copies = [(0, 7), (0, 8), (3, 5)]
    for shape in ((10, 2, 4, 6), (30, 2, 4, 6)):  # one and three kernel blocks per block
        caches = [torch.randn(shape), torch.randn(shape).bfloat16()]
        expected = [cache.clone() for cache in caches]
        copy_blocks([*caches, caches[0]], 10, copies)  # two layers share a cache
        copy_kv_cache_blocks_inplace(expected, 10, copies)
        assert all(map(torch.equal, caches, expected))


def test_copy_blocks_refuses_other_layouts() -> None:
    from safety_ray.compat.vllm_block_copies import copy_blocks

    for cache in (torch.randn(2, 10, 4), torch.randn(4, 10).T):
        with pytest.raises(ValueError, match="does not hold 10 contiguous blocks"):
            copy_blocks([cache], 10, [(0, 1)])
