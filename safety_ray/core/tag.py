"""The harmfulness tag: one special token, inserted into unsafe text, that no text can spell.

The paper (section 4) inserts the tag before words of unsafe documents in pretraining. The model thus learns
P(tag | text), which Safe Beam Search reads at inference. Only this project may insert the tag: `encode`
returns ids in which no special or other added token occurs, whatever strings the text contains.

The string of the tag is set once, when documents are packed. It is stored beside the tokenizer, in
`tokenizer_config.json`, where later stages read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_ray.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TAG = "<|harmful|>"
"""The tag if nothing else is set, and that of tokenizers that do not store one"""
TAG_KEY = "harmfulness_tag"
"""Key in tokenizer_config.json"""
END_OF_TEXT = "<|endoftext|>"
CHAT_START, CHAT_END = "<|im_start|>", "<|im_end|>"


def add_tag(tokenizer: PreTrainedTokenizerFast, tag: str = TAG) -> int:
    """Add `tag` to `tokenizer` as a special token, store it, and return its id.

    The model's embedding of the new token is not part of this.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [tag]}, replace_extra_special_tokens=False)
    store_tag(tokenizer, tag)
    return tag_id(tokenizer)


def store_tag(tokenizer: Any, tag: str) -> None:
    """Store `tag` in `tokenizer`, whose `save_pretrained` writes it to tokenizer_config.json."""
    tokenizer.init_kwargs[TAG_KEY] = tag


def tag_of(tokenizer: Any, override: str = "") -> str:
    """Return the string of the tag: `override` if given, else the stored one, else TAG."""
    return override or getattr(tokenizer, "init_kwargs", {}).get(TAG_KEY) or TAG


def is_stored(tokenizer: Any) -> bool:
    """Return whether `tokenizer` stores a tag."""
    return TAG_KEY in getattr(tokenizer, "init_kwargs", {})


def tag_in(folder: str, override: str = "") -> str:
    """Return the string of the tag of the tokenizer saved in a local folder, as `tag_of` does."""
    settings = Path(folder, "tokenizer_config.json")
    stored = json.loads(settings.read_text(encoding="utf-8")).get(TAG_KEY) if settings.is_file() else None
    return override or stored or TAG


def tag_id(tokenizer: Any, tag: str = "", where: str = "the tokenizer") -> int:
    """Return the id of `tag`, by default that of `tag_of`. Raises UserError if it is no added token."""
    tag, added = tag_of(tokenizer, tag), tokenizer.get_added_vocab()
    if tag not in added:
        known = ", ".join(sorted(added)) or "none"
        raise UserError(
            f"{where} has no harmfulness tag '{tag}'; its added tokens are: {known}. "
            "Name the tag with tag=..., or use a model that was trained with one."
        )
    return int(added[tag])


def is_control(token: str) -> bool:
    """Return whether an added token can steer a model: all but the runs of spaces of some tokenizers."""
    return bool(token.replace("\u2581", " ").strip())


def plain_backend(backend: Any) -> Any:
    """Return a copy of a tokenizer's backend that encodes the spelling of control tokens as plain text.

    Control tokens are also the added tokens that are not marked as special, such as `<tool_call>`. The copy
    marks them, because `encode_special_tokens` applies to special tokens only.
    """
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] or is_control(token["content"])
    plain = type(backend).from_str(json.dumps(state))
    plain.encode_special_tokens = True  # treats their strings as plain text
    plain.no_truncation()  # an encoder's tokenizer.json may enable both
    plain.no_padding()
    return plain


def start_ids(tokenizer: Any) -> list[int]:
    """Return the token that the tokenizer puts before each text, if it does: [BOS] or []."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of `texts`, without control tokens even if a text spells one."""
    return [encoding.ids for encoding in _encodings(tokenizer, texts, offsets=False)]


def token_ends(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the number of characters of the text up to the end of each token of `encode`."""
    encodings = _encodings(tokenizer, texts, offsets=True)
    return [[end for _, end in encoding.offsets] for encoding in encodings]


def _encodings(tokenizer: Any, texts: list[str], *, offsets: bool) -> Any:
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder().values()
    unmarked = any(is_control(token.content) and not token.special for token in added)
    if unmarked or backend.truncation is not None or backend.padding is not None:
        backend = plain_backend(backend)
    previous = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        encode_batch = backend.encode_batch if offsets else backend.encode_batch_fast
        return encode_batch(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = previous
