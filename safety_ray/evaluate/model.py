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

TAG_RATE = 0.05
"""The paper's probability of a tag before a word of unsafe text."""
_LONGEST_CHAIN = 8  # of models, each made from the next one


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
    if not tokenizer.is_fast:
        raise UserError(f"the model in '{where}' has no tokenizer.json; only fast tokenizers are supported.")
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


def training_size(path: str) -> dict[str, Any]:
    """Return the tokens of the pretraining on record for each parameter, as `tokens_per_parameter`.

    `continued` tells whether it continued another model, whose tokens are not counted. {} if there is no
    record of a pretraining.
    """
    record = _pretraining(path)
    if not record or not record.get("parameters"):
        return {}
    tokens = float(f"{record['tokens'] / record['parameters']:.3g}")
    return {"tokens_per_parameter": tokens, "continued": bool(record["config"]["model"].get("init"))}


def tag_rate(path: str) -> float:
    """Return the share of the words of unsafe text that had a tag in pretraining; unknown: TAG_RATE."""
    record = _pretraining(path)
    rows = read_record(record["config"]["rows"]) if record and record["config"].get("rows") else None
    return float((rows or {}).get("config", {}).get("tag_rate") or TAG_RATE)


def _pretraining(path: str) -> dict[str, Any] | None:
    """Return the record of the pretraining of the model at `path`, or of the model that it was made from."""
    for _ in range(_LONGEST_CHAIN):
        if model_path.is_hub_id(path):
            return None
        path = path.rstrip("/")
        record = read_record(posixpath.dirname(path) if posixpath.basename(path) == "model" else path)
        source = record["config"].get("model") if record else None
        if isinstance(source, dict):
            return record
        if not isinstance(source, str):
            return None
        path = source
    return None


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


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text, from the generation settings and from the tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)
