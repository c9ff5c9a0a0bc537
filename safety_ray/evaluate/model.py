"""The evaluated model: its tag, its settings, and loading it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from safety_ray.core import filesystem, model_path, tag
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Description:
    """Properties of a model that are known without its weights."""

    folder: str  # or a URL, or an id on the model hub
    tag_id: int | None  # None: the model has no tag
    vocabulary: int
    positions: int | None  # maximum context; None: no limit
    dtype: torch.dtype = torch.float32  # that config.json names, else fp32

    def load_tokenizer(self) -> Any:
        """Load the model's tokenizer."""
        return AutoTokenizer.from_pretrained(filesystem.local_copy(self.folder))


def describe(path: str, tag_string: str = "") -> Description:
    """Read the settings and the tokenizer of the model at `path`.

    `tag_string` overrides the tag that is stored with the tokenizer. Without either, a model whose tokenizer
    lacks the default tag has no tag. Raises UserError if the model cannot be read or lacks the named tag.
    """
    where = model_path.find(path)
    try:
        local = filesystem.local_copy(where)
        config = AutoConfig.from_pretrained(local).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(local)
    except (OSError, ValueError) as error:
        raise _unreadable(where, error) from error
    context = getattr(config, "max_position_embeddings", None)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    if not tag_string and not tag.is_stored(tokenizer) and tag.TAG not in tokenizer.get_added_vocab():
        return Description(where, None, config.vocab_size, context, dtype)
    tag_string = tag.tag_of(tokenizer, tag_string)
    tag_id = tag.tag_id(tokenizer, tag_string, where=f"the model in '{where}'")
    if tag_id >= config.vocab_size:
        raise UserError(
            f"the model in '{where}' has {config.vocab_size} tokens, but its tokenizer gives the tag "
            f"'{tag_string}' the id {tag_id}: the model was never trained with it."
        )
    return Description(where, tag_id, config.vocab_size, context, dtype)


def _unreadable(where: str, error: Exception) -> UserError:
    is_id = model_path.is_hub_id(where)
    what = f"'{where}' is no folder, and as an id on the model hub it" if is_id else f"the model in '{where}'"
    return UserError(f"model: {what} cannot be read: {str(error).splitlines()[0]}")


def tokens_per_parameter(path: str) -> float | None:
    """Return the training tokens per parameter; None unless `pretrain` trained the model from new weights."""
    if model_path.is_hub_id(path):
        return None
    record = read_record(posixpath.dirname(path) if posixpath.basename(path) == "model" else path) or {}
    settings = record.get("config", {}).get("model")
    if not isinstance(settings, dict) or settings.get("init") or not record.get("parameters"):
        return None
    return float(record["tokens"] / record["parameters"])


def load(where: str, device: str = "cpu") -> tuple[Any, Any]:
    """Load the model, in evaluation mode, and the tokenizer of a folder or URL; on a CPU in fp32.

    Raises UserError if the weights cannot be read, as those in pickle files.
    """
    dtype = torch.float32 if device == "cpu" else "auto"
    local = filesystem.local_copy(where)
    try:
        model = AutoModelForCausalLM.from_pretrained(local, dtype=dtype, use_safetensors=True)
    except OSError as error:
        raise _unreadable(where, error) from error
    return model.to(device).eval(), AutoTokenizer.from_pretrained(local)


def start_ids(tokenizer: Any) -> list[int]:
    """Return the token that the tokenizer puts before each text, if it does: [BOS] or []."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text, from the generation settings and from the tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)
