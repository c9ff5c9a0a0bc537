"""A model with known probabilities: its next token depends on the last token only.

A real two-layer Llama of width 64 with attention and feed-forward turned off, so that the hidden
state is the last token's embedding (one-hot) and the output matrix is a table of log-probabilities.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safety_ray.core.tag import CHAT_END, CHAT_START, END_OF_TEXT, TAG

WIDTH, SPECIAL = 64, (END_OF_TEXT, CHAT_START, CHAT_END, TAG)
POSITIONS = 2048
LONG_TOKENS = 1900
"""Tokens of a search that still runs while a test checks it, cancels it or starts another one."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REFUSAL = " [no.]"
KEY, OTHER_KEY = "key-of-the-tests-0001", "key-of-the-tests-0002"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer(
    *, split_special_tokens: bool, special: tuple[str, ...] = SPECIAL
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character; this project's jobs set `split_special_tokens`."""
    alphabet = [*LETTERS, *"ĠĊ<|>_.:/[]"]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        additional_special_tokens=[s for s in special if s != END_OF_TEXT],
        split_special_tokens=split_special_tokens,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def log_table(tokenizer: PreTrainedTokenizerFast, tag: str = TAG) -> torch.Tensor:
    """Return log P(next | last), both as ids: a letter is followed by the next letter of the alphabet.

    After f the tag has probability 0.2, after w 0.6; after z the text ends. All other tokens are followed by
    a. Unlikely tokens have different probabilities, so that there are no ties."""
    n = len(tokenizer)
    ids = {c: tokenizer.convert_tokens_to_ids(c) for c in LETTERS}
    harm, end = tokenizer.convert_tokens_to_ids([tag, END_OF_TEXT])
    ranks = (17 * torch.arange(n)[None] + 5 * torch.arange(n)[:, None]) % n
    rest = (-0.15 * ranks).exp()
    rest[:, harm] = 0.001
    rest /= rest.sum(-1, keepdim=True)
    table = 0.1 * rest
    table[:, ids["a"]] = 0.9
    for letter, following in itertools.pairwise(LETTERS):
        table[ids[letter]] = 0.02 * rest[ids[letter]]
        table[ids[letter], ids[following]] = 0.98
    table[ids["z"]] = 0.02 * rest[ids["z"]]
    table[ids["z"], end] = 0.98
    for letter, p_tag in (("f", 0.2), ("w", 0.6)):
        table[ids[letter]] *= 1 - p_tag
        table[ids[letter], harm] = p_tag
    return (table / table.sum(-1, keepdim=True)).log()


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, table: torch.Tensor) -> Path:
    n = len(tokenizer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=n,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=POSITIONS,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(n, WIDTH))
        # RMS norm scales a one-hot vector of width 64 to height 8.
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :n].copy_(table.T / math.sqrt(WIDTH))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
