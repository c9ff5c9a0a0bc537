"""Attention of a model in training: kernels of PyTorch, and the mask between the documents of a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

CAUSAL, CAUSAL_CUDNN = "causal_sdpa", "causal_cudnn"
"""Names in transformers of `causal_sdpa` and `causal_cudnn`"""

_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_HOPPER = (9, 0)  # compute capability from which cuDNN's kernel comes first


def causal_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Compute causal attention in rows without padding and without a document mask.

    transformers has no mask function of this name, so it makes no mask. For the name `sdpa` it looks for
    positions that restart in each forward pass, and waits for the GPU to read the result.
    """
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, None, **options)
    return output


def causal_cudnn(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Do the same, and prefer cuDNN's kernel to FlashAttention-2 where it can be used."""
    with sdpa_kernel(_ORDER, set_priority=True):
        return causal_sdpa(module, query, key, value, None, **options)


def causal_name(device: str) -> str:
    """Return the name of the faster function on `device`; cuDNN's kernel comes first on GPUs since Hopper."""
    hopper = device != "cpu" and torch.cuda.get_device_capability() >= _HOPPER
    return CAUSAL_CUDNN if hopper else CAUSAL


def allows_causal(config: Any) -> bool:
    """Return whether every layer of the model has plain causal attention, without a window or a cap."""
    return isinstance(config, LlamaConfig)


def document_block_mask(positions_BT: Tensor) -> BlockMask:
    """Return the mask of flex attention for rows of documents; `positions_BT` restart at each document.

    A token attends to itself and to earlier tokens of its document. Blocks without such pairs are skipped.
    """
    documents_BT = (positions_BT == 0).cumsum(dim=1)

    def same_document(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents_BT[row, query] == documents_BT[row, key])

    rows, length = positions_BT.shape
    return create_block_mask(same_document, rows, None, length, length, device=positions_BT.device)


AttentionInterface.register(CAUSAL, causal_sdpa)
AttentionInterface.register(CAUSAL_CUDNN, causal_cudnn)
