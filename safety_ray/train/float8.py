"""Matrix products of the blocks in float8, by torchao."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from safety_ray.core.errors import UserError

COMPILE_OPTIONS = {"emulate_precision_casts": True}
"""Options of torch.compile for blocks in float8. In PyTorch 2.7, the losses of models with RMSNorm became nan
without this one (https://github.com/pytorch/pytorch/issues/150859). torchtitan sets it as well.
"""

_CAPABILITY = (8, 9)  # of the first GPUs with float8 (Ada); PyTorch's own condition
_MULTIPLE = 16  # PyTorch's float8 products need sizes that are a multiple of it


def check(device: torch.device) -> None:
    """Raise UserError if `device` has no float8 matrix products."""
    if device.type != "cuda":
        raise UserError("fp8=true: CPUs have no float8 matrix products; use fp8=false.")
    if (capability := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        raise UserError(
            f"fp8=true: needs GPUs of compute capability 8.9 (Ada, Hopper) or newer, and this one has "
            f"{capability[0]}.{capability[1]}; use fp8=false."
        )


def convert(blocks: nn.ModuleList, *, emulate: bool = False) -> None:
    """Let the linear layers of `blocks` compute in float8, in place.

    Inputs, weights and gradients are scaled by row before each product. Weights, the optimizer and all other
    operations keep their precision, and the names of the parameters stay the same. Layers with a size that is
    not a multiple of 16 are left as they are. With `emulate`, values are rounded to float8 but multiplied in
    their own precision, on any device.

    Raises UserError if torchao is not installed, or if no layer can be converted.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
        from torchao.float8.float8_linear import Float8Linear
    except ImportError as error:
        raise UserError("fp8=true: torchao is not installed; pip install -r requirements/fp8.txt.") from error
    recipe = Float8LinearConfig.from_recipe_name("rowwise")
    config = replace(recipe, emulate=emulate, pad_inner_dim=True)  # any number of tokens in a micro-batch
    convert_to_float8_training(blocks, config=config, module_filter_fn=lambda layer, _: _fits(layer))
    if not any(isinstance(module, Float8Linear) for module in blocks.modules()):
        raise UserError("fp8=true: no layer of the model has sizes that are multiples of 16; use fp8=false.")


def _fits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and not (
        layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE
    )
