"""The tokenizer: trained on the documents or an existing one, with the tag as a special token.

It is saved with `split_special_tokens`, so that after a plain load text that spells a special token, the tag
above all, is encoded as text.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.tag import (
    CHAT_END,
    CHAT_START,
    END_OF_TEXT,
    add_tag,
    is_control,
    plain_backend,
    start_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LAST = "tokenizer_config.json"  # the file that is written last

MIN_VOCAB_SIZE = 256 + 4
"""Size of a vocabulary without merges: all bytes, end-of-text, two delimiters of chats and the tag"""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parts of a tokenizer that encoding uses; picklable, so that workers need not load transformers."""

    backend_tokenizer: Tokenizer
    size: int
    tag_id: int
    start_ids: tuple[int, ...]
    """the token that begins each text, if the tokenizer adds one"""
    end_id: int
    control_ids: npt.NDArray[np.int64]
    """added tokens, special or not, that no document may contain"""
    byte_lengths: npt.NDArray[np.int64] | None
    """number of bytes that each token spells, shape (tokens,); None if the tokenizer is not byte-level"""


def train(texts: Iterable[list[str]], vocab_size: int, tag: str, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocab_size` tokens, including special ones, as SmolLM2's.

    The result does not depend on the order of the texts. Few texts give a smaller vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    # Special tokens are added afterwards: if the trainer had them, a merge that spells one would be special.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - (MIN_VOCAB_SIZE - 256),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    _check_new(bpe, tag, "the trained tokenizer")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[CHAT_START, CHAT_END],
        split_special_tokens=True,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    add_tag(tokenizer, tag)
    return tokenizer


def open_existing(name: str, tag: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a folder, URL or hub id, and add the tag. Existing tokens keep their ids.

    Raises UserError if it cannot be loaded, is not a fast tokenizer, or has the tag as an ordinary token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(filesystem.local_copy(name), split_special_tokens=True)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().split("\n")[0]
        raise UserError(
            f"tokenizer: '{name}' cannot be loaded; give a folder with tokenizer.json or the id of "
            f"a tokenizer on the hub ({type(error).__name__}: {line})."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer: '{name}' has no tokenizer.json; only fast tokenizers are supported.")
    if tag not in tokenizer.get_added_vocab():
        _check_new(tokenizer.backend_tokenizer, tag, f"the tokenizer '{name}'")
    add_tag(tokenizer, tag)
    return tokenizer


def save(tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
    """Write the tokenizer's files to `folder`, on any filesystem; see `is_saved`."""
    with filesystem.written_at_once(folder, last=_LAST) as part:
        tokenizer.save_pretrained(part)


def is_saved(folder: str) -> bool:
    """Return whether `save` has ended."""
    fs, root = filesystem.find(folder)
    return bool(fs.exists(f"{root}/{_LAST}"))


def load(folder: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer that `save` has written, with AutoTokenizer."""
    from transformers import AutoTokenizer

    fs, root = filesystem.find(folder)
    with tempfile.TemporaryDirectory() as local:
        for name in fs.find(root):
            target = Path(local, name[len(root) :].lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(target))
        return AutoTokenizer.from_pretrained(local)


def tables(tokenizer: PreTrainedTokenizerFast, tag: str, where: str, tagged: bool = True) -> Vocabulary:
    """Return the tables of a tokenizer that has `tag` as a token.

    Raises UserError if it has no end-of-text token, or, with `tagged`, is not byte-level. `where` names the
    tokenizer.
    """
    added = tokenizer.get_added_vocab()
    end = END_OF_TEXT if END_OF_TEXT in added else tokenizer.eos_token
    if end is None:
        raise UserError(f"{where} has neither {END_OF_TEXT} nor an eos_token; a document must end with one.")
    backend = plain_backend(tokenizer.backend_tokenizer)
    lengths = _byte_lengths(backend)
    if lengths is None and tagged:
        raise UserError(
            f"{where} is not byte-level, so words cannot be located in its tokens; use a byte-level BPE "
            "(SmolLM2's, GPT-2's, Llama 3's, Qwen's), or set tag_rate=0."
        )
    control = [i for i, token in backend.get_added_tokens_decoder().items() if is_control(token.content)]
    end_id = int(tokenizer.convert_tokens_to_ids(end))
    return Vocabulary(
        backend, len(tokenizer), int(added[tag]), tuple(start_ids(tokenizer)), end_id,
        np.array(sorted(control), np.int64), lengths,
    )  # fmt: skip


def _check_new(backend: Tokenizer, tag: str, where: str) -> None:
    if tag in backend.get_vocab(with_added_tokens=False):
        raise UserError(
            f"tag={tag}: an ordinary token of {where}, so text could contain it; choose one like <|harmful|>."
        )


def _byte_lengths(backend: Tokenizer) -> npt.NDArray[np.int64] | None:
    """Return the number of bytes that each token spells; None if the vocabulary is not byte-level.

    In a byte-level vocabulary each character of a token's name represents one byte of text.
    """
    decoder = json.dumps(json.loads(backend.to_str())["decoder"])
    if '"ByteLevel"' not in decoder:
        return None
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    names = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(names.values(), default=0) + 1, np.int64)
    for name, token in names.items():
        if token in added:
            lengths[token] = len(added[token].content.encode())
        elif alphabet.issuperset(name):
            lengths[token] = len(name)
        else:
            return None
    return lengths
