"""Train a small model in bf16 and in emulated float8; print a JSON object of what each way did."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig

from safety_ray.train import float8
from safety_ray.train.adapters import adapt, merged
from safety_ray.train.batches import Batch, document_positions
from safety_ray.train.model import LanguageModel
from safety_ray.train.optim import adamw
from safety_ray.train.parallel import recompute, shard
from safety_ray.train.settings import PretrainConfig
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
        for block in model.blocks:
            block.compile()
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


with tempfile.TemporaryDirectory() as folder:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    ways: dict[str, dict[str, Any]] = {
        "bf16": {"fp8": False},
        "fp8": {"fp8": True},
        "fp8, recomputed": {"fp8": True, "again": True},
        "fp8, compiled": {"fp8": True, "compiled": True},
        "fp8, odd width": {"fp8": True, "width": ODD},
        "bf16, adapters": {"fp8": False, "rank": 16},
        "fp8, adapters": {"fp8": True, "rank": 16},
    }
    print(json.dumps({name: train(**way) for name, way in ways.items()}))
    dist.destroy_process_group()
