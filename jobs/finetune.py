"""model and chats → model: chats become token rows, on which the training loop of pretraining runs.

<output>/rows/    the chats as token rows
The other files are those of jobs/pretrain.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.pretrain import begin, run_training
from safety_ray.core import artifact, model_path
from safety_ray.train.data import TokenRows
from safety_ray.train.model import load_tokenizer, longest_context
from safety_ray.train.prepare import prepare
from safety_ray.train.settings import FinetuneConfig, ModelConfig

__all__ = ["FinetuneConfig", "finetune_model"]


def finetune_model(config: FinetuneConfig) -> dict[str, Any]:
    """Finetune a model on chats. Returns the record; a finished folder is skipped."""
    longest = longest_context(config.model, "model")
    inputs = {"chats": config.chats, **model_path.as_input("model", config.model)}
    out = begin(config, inputs)
    if out.record is not None:
        return out.record
    chats = artifact.begin(out.sub("rows"), config, inputs)
    tokenizer = load_tokenizer(model_path.find(config.model), "model")
    record = chats.record or prepare(config, tokenizer, chats, longest)
    model = ModelConfig(
        init=config.model,
        attention=config.attention,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
    )
    result = run_training(replace(config, output=out.path), model, TokenRows(chats.path))
    keys = ("rows_in", "rejected", "tagged", "truncated", "reasoning", "reasoning_ignored")
    counts = {key: record[key] for key in keys}
    return out.commit(balanced=False, rows_out=1, **counts, **result)


if __name__ == "__main__":
    from jobs.cli import main

    main("finetune")
