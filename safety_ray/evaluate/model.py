"""The model under test: where it lies, whether it has the tag, and how it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from safety_ray.core import tag
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a model without its weights."""

    folder: str
    tag_id: int
    vocabulary: int
    positions: int | None  # None: no limit


def folder(path: str) -> str:
    """The Hugging Face folder at `path`: itself, or the export in a finished training's folder.

    Raises UserError where there is none.
    """
    for candidate in (Path(path) / "model", Path(path)):
        settings = candidate / "config.json"  # every stage's folder has a file of that name
        if settings.is_file() and "model_type" in json.loads(settings.read_text(encoding="utf-8")):
            return str(candidate.absolute())
    read_record(path)  # a training that was broken off says so itself
    raise UserError(
        f"'{path}' holds no model; give a folder with a Hugging Face config.json, "
        "or the output of python -m jobs.pretrain or jobs.finetune."
    )


def describe(path: str, tag_string: str = "") -> Description:
    """Read the settings and the tokenizer of the model at `path`. Raises UserError if it has no tag.

    `tag_string` overrides the tag that is stored with the tokenizer.
    """
    where = folder(path)
    try:
        config = AutoConfig.from_pretrained(where).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise UserError(f"the model in '{where}' cannot be read: {str(error).splitlines()[0]}") from error
    tag_string = tag.tag_of(tokenizer, tag_string)
    tag_id = tag.tag_id(tokenizer, tag_string, where=f"the model in '{where}'")
    if tag_id >= config.vocab_size:
        raise UserError(
            f"the model in '{where}' has {config.vocab_size} tokens, but its tokenizer gives the tag "
            f"'{tag_string}' the id {tag_id}: the model was never trained with it."
        )
    return Description(where, tag_id, config.vocab_size, getattr(config, "max_position_embeddings", None))


def load(where: str, device: str = "cpu") -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer of a Hugging Face folder; on a CPU in fp32."""
    dtype = torch.float32 if device == "cpu" else "auto"
    model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype).to(device).eval()
    return model, AutoTokenizer.from_pretrained(where)


def ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text: those of the generation settings and the tokenizer's own."""
    known = model.generation_config.eos_token_id
    found = [*(known if isinstance(known, list) else [known]), tokenizer.eos_token_id]
    return frozenset(token for token in found if token is not None)
