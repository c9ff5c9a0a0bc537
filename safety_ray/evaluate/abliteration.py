"""Abliteration (Arditi et al. 2024, arXiv 2406.11717): an attack that removes a direction from the weights.

The direction separates harmful from harmless prompts in the residual stream. A model whose safety rests on it
loses its refusals, without any training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from safety_ray.core.errors import UserError
from safety_ray.evaluate.reading import batches

_TOKENS = 8192  # in a batch, including padding


@torch.inference_mode()
def find_direction(
    network: Any,
    harmful: list[list[int]],
    harmless: list[list[int]],
    layer: int,
    on_read: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """Return the difference of the mean states of harmful and harmless prompts, as a unit vector [D] in fp64.

    A state is the output of block number `layer` (from 1) after a prompt's last token. `on_read` is called
    with the number of prompts that have been read.
    """
    harmful_D = _mean_state(network, harmful, layer, on_read)
    harmless_D = _mean_state(network, harmless, layer, lambda done: on_read(len(harmful) + done))
    difference_D = harmful_D - harmless_D
    direction_D: Tensor = difference_D / difference_D.norm()
    return direction_D


@torch.no_grad()
def remove_direction(network: Any, direction_D: Tensor) -> None:
    """Change the weights, in place, so that no module writes the direction into the residual stream.

    These are the embeddings and, in each block, the last matrices of attention and of the feed-forward layer.
    If input and output embeddings are one matrix, only the copy for the input changes, and the model then has
    two. Raises UserError for models without the layers of the Llama family.
    """
    writers = _writers(network)
    head, table = network.get_output_embeddings(), network.get_input_embeddings()
    if head.weight is table.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        network.config.tie_word_embeddings = False
    _project(table.weight, direction_D)  # a row is the state that a token starts with
    for layer in writers:
        _project(layer.weight.T, direction_D)  # states are rows · weightᵀ
        if layer.bias is not None:
            _project(layer.bias[None], direction_D)


def _mean_state(
    network: Any, prompts: list[list[int]], layer: int, on_read: Callable[[int], object]
) -> Tensor:
    block, done = _blocks(network)[layer - 1], 0
    states: list[Tensor] = []
    handle = block.register_forward_hook(
        lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    total_D = torch.zeros(network.config.hidden_size, dtype=torch.float64)
    try:
        for batch in batches([len(ids) for ids in prompts], _TOKENS):
            longest = max(len(prompts[i]) for i in batch)
            # Padding is on the right, where a causal model does not attend to it: no mask is needed.
            ids_BT = torch.tensor([prompts[i] + [0] * (longest - len(prompts[i])) for i in batch])
            network.base_model(input_ids=ids_BT.to(network.device), use_cache=False)
            state_BTD = states.pop()
            last_B = torch.tensor([len(prompts[i]) - 1 for i in batch], device=state_BTD.device)
            rows_B = torch.arange(len(batch), device=state_BTD.device)
            total_D += state_BTD[rows_B, last_B].double().sum(dim=0).cpu()
            done += len(batch)
            on_read(done)
    finally:
        handle.remove()
    return total_D / len(prompts)


def _blocks(network: Any) -> nn.ModuleList:
    blocks = getattr(network.base_model, "layers", None)
    if blocks is None:
        raise UserError(f"{type(network).__name__} has no blocks named 'layers', as models like Llama have.")
    found: nn.ModuleList = blocks
    return found


def _writers(network: Any) -> list[Any]:
    blocks: list[Any] = list(_blocks(network))
    try:
        return [layer for block in blocks for layer in (block.self_attn.o_proj, block.mlp.down_proj)]
    except AttributeError as error:
        raise UserError(
            f"the blocks of {type(network).__name__} have no self_attn.o_proj and mlp.down_proj, as those of "
            "models like Llama have."
        ) from error


def _project(rows_ND: Tensor, direction_D: Tensor) -> None:
    direction_D = direction_D.to(rows_ND.device)
    exact_ND = rows_ND.double()
    rows_ND.copy_(exact_ND - (exact_ND @ direction_D)[:, None] * direction_D)
