"""Train a small model in bf16 and in emulated float8, and once with the whole loop; print a JSON object.

The argument is a folder with token rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from safety_ray.train import float8, loop
from safety_ray.train.adapters import adapt, merged
from safety_ray.train.batches import Batch, document_positions
from safety_ray.train.metrics import Metrics
from safety_ray.train.model import LanguageModel
from safety_ray.train.optim import adamw
from safety_ray.train.parallel import compile_blocks, recompute, shard
from safety_ray.train.settings import ModelConfig, PretrainConfig
from safety_ray.train.step import backward, read, update

ROWS, LENGTH, VOCABULARY, STEPS = 8, 64, 256, 30
ODD = 40  # width of the feed-forward layers that is no multiple of 16


def train(*, fp8: bool, rank: int = 0, again: bool = False, compiled: bool = False, width: int = 96) -> Any:
    """Return the losses, the names of the exported weights, and the number of layers in float8."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=width, tie_word_embeddings=True,
        ),
        attn_implementation="eager",
    )  # fmt: skip
    if rank:
        adapt(network, rank, 2 * rank, new_tokens=False)
    model = LanguageModel(network)
    if fp8:
        float8.convert(model.blocks, emulate=True)
    if again:
        recompute(model.blocks)
    if compiled:
        compile_blocks(model.blocks, fp8=fp8)
    layers = sum(type(module).__name__ == "Float8Linear" for module in model.modules())
    shard(model, model.blocks, device="cpu", precision="bf16")
    config = PretrainConfig(rows="", output="", workers=1, batch_rows=ROWS, micro_batch_rows=4)
    optimizer = adamw(model, config)
    ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    zeros = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    batch = Batch(ids[:, :-1], ids[:, 1:], zeros, document_positions(zeros))
    losses = []
    for _ in range(STEPS):
        sums = backward(model, batch, 0, config, gather_once=True)
        update(optimizer, sums, 3e-3, grad_clip=1.0)
        losses.append(read(sums).loss)
    weights = {name: value.full_tensor() for name, value in model.network.state_dict().items()}
    return {"losses": losses, "names": sorted(merged(weights, network)), "layers": layers}


def shape_errors() -> dict[int, str]:
    """Compute gradients without emulation, on the meta device, which checks shapes as a GPU does.

    Returns the error for each number of tokens; empty if there is none.
    """
    blocks = nn.ModuleList([nn.Linear(64, 96, bias=False)]).to("meta", torch.bfloat16)
    float8.convert(blocks)
    errors = dict.fromkeys([8 * 480, 8 * 487, 1, 17], "")
    for tokens in errors:
        states = torch.empty(tokens, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
        try:
            blocks[0](states).sum().backward()
        except RuntimeError as error:
            errors[tokens] = str(error)
    return errors


def whole_loop(rows: str, output: str) -> list[float]:
    """Train by `loop.train` with fp8=true, as if this CPU had float8; return the losses."""
    loop.float8.check = lambda device: None  # type: ignore[attr-defined]
    loop.float8.convert = partial(float8.convert, emulate=True)  # type: ignore[attr-defined]
    size = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 2, "intermediate_size": 64}
    config = PretrainConfig(
        rows=rows, output=output, model=ModelConfig(**size), workers=1, batch_rows=8, max_steps=6,
        checkpoint_every=3, log_every=1, precision="bf16", compile=True, fp8=True,
    )  # fmt: skip
    loop.train(config, config.model, rows, device=torch.device("cpu"))
    AutoModelForCausalLM.from_pretrained(f"{output}/model")
    return [line["loss"] for line in Metrics(output).lines()]


with tempfile.TemporaryDirectory() as folder:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    ways: dict[str, dict[str, Any]] = {
        "bf16": {"fp8": False},
        "fp8": {"fp8": True},
        "fp8, recomputed": {"fp8": True, "again": True},
        "fp8, compiled": {"fp8": True, "compiled": True},
        "fp8, compiled, recomputed": {"fp8": True, "compiled": True, "again": True},
        "fp8, odd width": {"fp8": True, "width": ODD},
        "bf16, adapters": {"fp8": False, "rank": 16},
        "fp8, compiled, adapters": {"fp8": True, "rank": 16, "compiled": True},
    }
    found: dict[str, Any] = {name: train(**way) for name, way in ways.items()}
    errors = shape_errors()
    losses = whole_loop(sys.argv[1], f"{folder}/out")
    print(json.dumps({"ways": found, "shape_errors": errors, "loop": losses}))
    dist.destroy_process_group()
