"""LoRA (Hu et al. 2021): small matrices beside frozen ones are trained, and added to them in the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Module

_BESIDE, _FROZEN = ".lora_", ".base_layer."


def adapt(network: Any, rank: int, alpha: int, *, new_tokens: bool) -> None:
    """Put an adapter of `rank` beside each linear layer of the blocks, in place, and freeze the rest.

    With `new_tokens` the embeddings are trained, too: nobody else could teach them.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and few trainings need it

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_BESIDE in name)
    if new_tokens:
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            layer.weight.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Whether the parameter `name` is an adapter's."""
    return _BESIDE in name


def merged(weights: dict[str, Tensor], network: Module) -> dict[str, Tensor]:
    """The weights of a model without adapters that does what `network` does with `weights`."""
    found: dict[str, Tensor] = {}
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
        found[name] = value
    return found
