"""Abliteration (Arditi et al. 2024, arXiv 2406.11717): an attack that removes a direction from the weights.

The direction separates harmful from harmless prompts in the residual stream. A model whose safety rests on it
loses its refusals, without any training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from safety_ray.core.batching import batches_by_length
from safety_ray.core.errors import UserError
from safety_ray.evaluate.reading import padded

_TOKENS = 8192  # in a batch, including padding
_LEFT = 1e-3  # highest share of a state in a removed direction; rounding in fp32 leaves less


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
    with the number of prompts that have been read. Raises UserError if the means are equal, or not finite.
    """
    harmful_D = _last_states(network, harmful, layer, on_read).mean(dim=0)
    harmless_D = _last_states(network, harmless, layer, lambda done: on_read(len(harmful) + done)).mean(dim=0)
    difference_D = harmful_D - harmless_D
    if not difference_D.isfinite().all():
        raise UserError("the states of some prompts are not finite, so the model has no direction to remove.")
    if not (length := difference_D.norm()):
        raise UserError("harmful and harmless prompts have the same mean state; give other prompts.")
    direction_D: Tensor = difference_D / length
    return direction_D


@torch.no_grad()
def remove_direction(network: Any, direction_D: Tensor) -> None:
    """Change the weights, in place, so that no module writes the direction into the residual stream.

    These are the embeddings and, in each block, the last matrices of attention and of the feed-forward layer.
    If input and output embeddings are one matrix, only the copy for the input changes, and the model then has
    two.
    """
    head, table = network.get_output_embeddings(), network.get_input_embeddings()
    if head.weight is table.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        network.config.tie_word_embeddings = False
    _project(table.weight, direction_D)  # a row is the state that a token starts with
    for layer in _writers(network):
        _project(layer.weight.T, direction_D)  # states are rows · weightᵀ
        if layer.bias is not None:
            _project(layer.bias[None], direction_D)


def check(network: Any) -> int:
    """Return the number of blocks. Raises UserError for models without the layers of the Llama family."""
    return len(_writers(network)) // 2


@torch.inference_mode()
def check_removed(network: Any, direction_D: Tensor, prompts: list[list[int]], layer: int) -> None:
    """Raise UserError if states after block number `layer` still have a part in the direction.

    Models that normalize the output of attention or of the feed-forward layer, as Gemma 2 does, change the
    direction after it was removed.
    """
    states_BD = _last_states(network, prompts, layer, lambda done: None)
    share = float(((states_BD @ direction_D).abs() / states_BD.norm(dim=1)).max())
    if not share < _LEFT:
        raise UserError(
            f"abliteration does not work for {type(network).__name__}: its states keep the direction (a "
            f"share of {share:.2g}), as in models whose blocks normalize their outputs, such as Gemma 2."
        )


def _last_states(
    network: Any, prompts: list[list[int]], layer: int, on_read: Callable[[int], object]
) -> Tensor:
    """Return a block's outputs after the last tokens [B, D], in fp64 on the CPU, longest prompts first."""
    block, done = _blocks(network)[layer - 1], 0
    states: list[Tensor] = []
    last_states: list[Tensor] = []
    handle = block.register_forward_hook(
        lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        for batch in batches_by_length([len(ids) for ids in prompts], _TOKENS):
            ids_BT = padded([prompts[i] for i in batch], network.device)
            network.base_model(input_ids=ids_BT, use_cache=False)
            state_BTD = states.pop()
            last_B = torch.tensor([len(prompts[i]) - 1 for i in batch], device=state_BTD.device)
            rows_B = torch.arange(len(batch), device=state_BTD.device)
            last_states.append(state_BTD[rows_B, last_B].double().cpu())
            done += len(batch)
            on_read(done)
    finally:
        handle.remove()
    return torch.cat(last_states)


def _blocks(network: Any) -> nn.ModuleList:
    blocks = getattr(network.base_model, "layers", None)
    if blocks is None:
        raise UserError(f"{type(network).__name__} has no blocks named 'layers', as models like Llama have.")
    layers: nn.ModuleList = blocks
    return layers


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
