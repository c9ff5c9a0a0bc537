"""model and chats → model: chats become token rows, on which the training loop of pretraining runs.

<output>/rows/    the chats as token rows
The other files are those of jobs/pretrain.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.pretrain import begin, model_input, run_training
from safety_ray.core import artifact
from safety_ray.train.data import TokenRows
from safety_ray.train.model import folder, load_tokenizer, longest_context
from safety_ray.train.prepare import prepare
from safety_ray.train.settings import FinetuneConfig, ModelConfig

__all__ = ["FinetuneConfig", "finetune_model"]


def finetune_model(config: FinetuneConfig) -> dict[str, Any]:
    """Finetune a model on chats. Returns the record; a finished folder is skipped."""
    longest = longest_context(config.model, "model")
    inputs = {"chats": config.chats, **model_input(config.model)}
    out = begin(config, inputs)
    if out.record is not None:
        return out.record
    chats = artifact.begin(out.sub("rows"), config, inputs)
    tokenizer = load_tokenizer(folder(config.model), "model")
    record = chats.record or prepare(config, tokenizer, chats, longest)
    model = ModelConfig(
        init=config.model,
        attention=config.attention,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
    )
    result = run_training(replace(config, output=out.path), model, TokenRows(chats.path))
    keys = ("rows_in", "rejected", "tagged", "cut", "reasoning", "reasoning_ignored")
    counts = {key: record.get(key, 0) for key in keys}  # rows of an earlier version have no `reasoning`
    return out.commit(balanced=False, rows_out=1, **counts, **result)


if __name__ == "__main__":
    from jobs.cli import main

    main("finetune")
