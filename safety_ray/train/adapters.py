"""LoRA (Hu et al. 2021): train low-rank adapters of frozen weights, and merge them at the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Module

_ADAPTER, _FROZEN = ".lora_", ".base_layer."


def adapt(network: Any, rank: int, alpha: int, *, new_tokens: bool) -> None:
    """Add an adapter of `rank` to each linear layer of the blocks, in place, and freeze the other weights.

    With `new_tokens` the embeddings are trained as well, because adapters cannot learn those of new tokens.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and few runs need it

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_ADAPTER in name)
    if new_tokens:
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            layer.weight.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Return whether the parameter `name` belongs to an adapter."""
    return _ADAPTER in name


def merged(weights: dict[str, Tensor], network: Module) -> dict[str, Tensor]:
    """Return weights for a model without adapters that computes the same as `network` with `weights`."""
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        if is_adapter(name):
            continue
        if _FROZEN in name:
            stem, kind = name.split(_FROZEN)
            name = f"{stem}.{kind}"
            if kind == "weight":
                layer: Any = network.get_submodule(stem)
                down, up = (weights[f"{stem}.lora_{half}.default.weight"] for half in "AB")
                value = value + layer.scaling["default"] * (up @ down)
        plain[name] = value
    return plain
