"""The harmfulness tag: one token that stands in unsafe text, and that no text can forge.

The paper (section 4) puts the tag before words of unsafe documents during pretraining. The model
so learns P(tag | text), which Safe Beam Search reads at inference. The tag must therefore come
from the packer alone: `encode` turns text into ids in which no special token can appear, whatever
strings the text holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safety_ray.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TAG = "<|harmful|>"
END_OF_TEXT = "<|endoftext|>"
CHAT_START, CHAT_END = "<|im_start|>", "<|im_end|>"


def add_tag(tokenizer: PreTrainedTokenizerFast, tag: str = TAG) -> int:
    """Make `tag` one special token of `tokenizer` and return its id; the embedding is the model's task."""
    tokenizer.add_special_tokens({"additional_special_tokens": [tag]}, replace_extra_special_tokens=False)
    return tag_id(tokenizer, tag)


def tag_id(tokenizer: Any, tag: str = TAG, where: str = "the tokenizer") -> int:
    """The id of the tag; UserError where the tokenizer does not have it as one added token."""
    added = tokenizer.get_added_vocab()
    if tag not in added:
        known = ", ".join(sorted(added)) or "none"
        raise UserError(
            f"{where} has no harmfulness tag '{tag}'; its added tokens are: {known}. "
            "Name the tag with tag=..., or use a model that was trained with one."
        )
    return int(added[tag])


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of `texts`, in which special tokens never appear, not even where text spells them."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True  # the library's name for: treat their strings as plain text
    try:
        return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before
