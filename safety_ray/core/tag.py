"""The harmfulness tag: a special token in unsafe text that documents cannot forge.

The paper (section 4) inserts the tag before words of unsafe documents during pretraining. The model learns
P(tag | text), which Safe Beam Search uses at inference. Only the stage `pack` may insert the tag, so
`encode` turns text into ids without any special token, even if the text spells one.
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
    """Add `tag` to the special tokens of `tokenizer` and return its id. The model's embedding is not
    resized.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [tag]}, replace_extra_special_tokens=False)
    return tag_id(tokenizer, tag)


def tag_id(tokenizer: Any, tag: str = TAG, where: str = "the tokenizer") -> int:
    """Return the id of the tag. Raises UserError if it is not an added token of the tokenizer."""
    added = tokenizer.get_added_vocab()
    if tag not in added:
        known = ", ".join(sorted(added)) or "none"
        raise UserError(
            f"{where} has no harmfulness tag '{tag}'; its added tokens are: {known}. "
            "Name the tag with tag=..., or use a model that was trained with one."
        )
    return int(added[tag])


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of `texts`, without special tokens even if a text spells one."""
    backend = tokenizer.backend_tokenizer
    previous = backend.encode_special_tokens
    backend.encode_special_tokens = True  # treats their strings as plain text
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = previous
