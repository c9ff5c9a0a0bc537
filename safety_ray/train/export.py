"""Export of a trained model as a Hugging Face folder: weights, tokenizer, generation settings, card."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM

from safety_ray.core import filesystem, tag
from safety_ray.train.adapters import merged
from safety_ray.train.model import LanguageModel

_PREFIX = "network."


def export(model: LanguageModel, tokenizer: Any, path: str, *, precision: str) -> None:
    """Write the folder `path`, which transformers and vLLM can load, without a model card.

    All workers call this function. The weights are saved in the precision of training. With bf16 this loses
    nothing that a forward pass has used; the fp32 weights are in the last checkpoint. Buffers keep their
    precision.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
        buffers = dict(model.network.named_buffers())
        weights = {
            name: value if name in buffers else value.to(dtype)
            for name, value in merged(weights, model.network).items()
        }
        with torch.device("meta"):  # a copy without weights, so that the trained model is unchanged
            plain = AutoModelForCausalLM.from_config(model.network.config, dtype=dtype)
        plain.generation_config = model.network.generation_config
        plain.generation_config.eos_token_id = _ends(tokenizer)
        transformers.utils.logging.disable_progress_bar()
        with filesystem.written_at_once(path) as part:
            plain.save_pretrained(part, state_dict=weights)
            tokenizer.save_pretrained(part)
    dist.barrier()


def write_card(path: str, text: str) -> None:
    """Write the model card of the folder `path`."""
    fs, root = filesystem.find(path)
    fs.pipe_file(f"{root}/README.md", text.encode())


def card(
    *, settings: dict[str, Any], rows: dict[str, Any], result: dict[str, Any], lineage: list[str]
) -> str:
    """Return the text of the model card.

    Args:
        settings: the config.
        rows: record of the token rows.
        result: parameters, precision, steps, skipped, tokens and final_loss.
        lineage: lines that `lineage.lineage` returns.
    """
    rows_record = {
        key: value for key, value in rows.items() if key not in ("versions", "seconds", "finished")
    }
    model = settings["model"]
    about_tag = (
        f"`{rows['tag']}` (token {rows['tag_id']}) is the harmfulness tag of Safety Pretraining "
        "(arXiv 2504.16980): its\nprobability measures how harmful the text so far is. Decode with Safe Beam "
        "Search to use it,\nand never show it to readers."
        if rows["tag_id"] >= 0
        else "It has no harmfulness tag."
    )
    init = model if isinstance(model, str) else model["init"]
    newline = "\n"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [safety-pretraining]
---
# A language model trained with safety_ray

{result["parameters"]:,} parameters, {"continued from `" + init + "`" if init else "from new weights"}.
Trained in {result["precision"]} for {result["steps"]:,} steps on {result["tokens"]:,} tokens,
from {rows["rows_out"]:,} rows of {rows["row_length"]} tokens;
final loss {result["final_loss"]}, {result["skipped"]} steps skipped.

{about_tag}

## Training
```json
{json.dumps(settings, indent=1, ensure_ascii=False)}
```

## Data
{newline.join(lineage)}

Record of the token rows, with settings and fingerprints of inputs:
```json
{json.dumps(rows_record, indent=1, ensure_ascii=False)}
```
"""


def _ends(tokenizer: Any) -> int | list[int]:
    """Return the ids that end a generation: eos_token, end of a document, end of a turn."""
    vocabulary = tokenizer.get_vocab()
    ends = [tokenizer.eos_token_id, vocabulary.get(tag.END_OF_TEXT), vocabulary.get(tag.CHAT_END)]
    unique = list(dict.fromkeys(end for end in ends if end is not None))
    return unique[0] if len(unique) == 1 else unique
