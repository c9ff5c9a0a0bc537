"""Models, tokenizers and texts for gpu.py, all random: it needs no files and no network."""

from __future__ import annotations

import itertools
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from safety_ray.train.batches import Batch, document_positions, next_tokens

SHAPES: dict[str, dict[str, Any]] = {  # SmolLM2's
    "tiny": {
        "vocabulary": 300, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 64,
    },
    "360M": {
        "vocabulary": 49_153, "hidden_size": 960, "layers": 32, "heads": 15, "kv_heads": 5,
        "intermediate_size": 2560,
    },
    "1.7B": {
        "vocabulary": 49_153, "hidden_size": 2048, "layers": 24, "heads": 32, "kv_heads": 32,
        "intermediate_size": 8192,
    },
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "tiny": {"max_tokens": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64},
    "22M": {"max_tokens": 256, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
            "intermediate_size": 1536},
    "137M": {"max_tokens": 512, "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
             "intermediate_size": 1152},
}  # fmt: skip
_PIECES = ["".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=3)][:15_200]
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@cache
def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of this many words."""
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(vocabulary)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1")


def batch_of(rows: int, length: int, vocabulary: int, *, documents: bool) -> Batch:
    """Return random rows, with a new document every 64 to 1,500 tokens if `documents`."""
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(2, vocabulary, (rows, length)))
    numbers = torch.zeros_like(ids)
    if documents:
        for row in numbers:
            for start in np.cumsum(generator.integers(64, 1500, length)):
                row[start:] += 1
                if start >= length:
                    break
    targets = next_tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    return Batch(ids, targets, torch.zeros_like(ids), document_positions(numbers))


def encoder_folder(folder: Path, name: str) -> None:
    """Write an encoder with random weights and a WordPiece tokenizer; 137M has rotary embeddings."""
    vocabulary = [*_SPECIAL, *_PIECES, *(f"##{piece}" for piece in _PIECES)]
    ids = {piece: n for n, piece in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    size = {key: value for key, value in ENCODERS[name].items() if key != "max_tokens"}
    torch.manual_seed(0)
    if name == "22M":
        BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    else:
        config = ModernBertConfig(
            vocab_size=len(vocabulary), pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
            sep_token_id=3, **size,
        )  # fmt: skip
        ModernBertModel(config).save_pretrained(folder)


def texts_of(number: int, seed: int, *, words: int) -> list[str]:
    """Return texts of two tokens per word, with `words` words on average."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(words // 4, 2 * words - words // 4, number)
    return [
        " ".join(_PIECES[a] + _PIECES[b] for a, b in generator.integers(len(_PIECES), size=(length, 2)))
        for length in lengths
    ]
