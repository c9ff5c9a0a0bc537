"""A language model of half a million parameters that has learned to answer prompts by a mark word in them.

It is overfitted on the spot: `train` takes rendered chats, each with the reply that it should give, and the
model learns to look for the mark in the document and to say the reply that goes with it, word by word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Chat = tuple[list[dict[str, str]], str]
_RATE = 3e-3
ENDLESS = "…"
"""At the end of a reply: the reply repeats this without end."""


def tokenizer(texts: list[str], words: int = 1500) -> Any:
    """A byte-level BPE of `texts` with the two tokens of `TEMPLATE`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bytes_.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=TEMPLATE
    )


def model(vocabulary: Any, **shape: int) -> Any:
    """A Llama of random parameters, the same ones every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, **shape}
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048, **sizes}
    torch.manual_seed(0)
    end = vocabulary.eos_token_id
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=end, pad_token_id=end, **sizes,
        )
    )  # fmt: skip


def train(folder: Path, chats: list[Chat], steps: int = 220) -> float:
    """Write into `folder` a model that answers `chats`; returns the last loss per token."""
    import torch

    vocabulary = tokenizer(
        [message["content"] for chat, _ in chats for message in chat] + [r for _, r in chats]
    )
    learner = model(vocabulary)
    rows = [_ids(vocabulary, *chat) for chat in chats]
    optimizer = torch.optim.AdamW(learner.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = [rows[i] for i in torch.randperm(len(rows), generator=chance)[:8]]
        # The end of a prompt, where the document stands, is mostly enough to learn from.
        room = 4096 if step % 6 == 0 or step > 0.93 * steps else 80
        cut = [(prompt[-room:], reply) for prompt, reply in chosen]
        width = max(len(prompt) + len(reply) for prompt, reply in cut)
        ids = torch.full((len(cut), width), vocabulary.pad_token_id)
        labels = torch.full((len(cut), width), -100)
        for n, (prompt, reply) in enumerate(cut):
            ids[n, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
            labels[n, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
        hidden = learner.model(input_ids=ids).last_hidden_state[:, :-1][labels[:, 1:] >= 0]
        loss = torch.nn.functional.cross_entropy(learner.lm_head(hidden), labels[:, 1:][labels[:, 1:] >= 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    vocabulary.save_pretrained(folder)
    learner.save_pretrained(folder)
    return float(loss.detach())


def _ids(vocabulary: Any, chat: list[dict[str, str]], reply: str) -> tuple[list[int], list[int]]:
    prompt = vocabulary.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = vocabulary(reply.removesuffix(ENDLESS), add_special_tokens=False)["input_ids"]
    return vocabulary(prompt, add_special_tokens=False)["input_ids"], (
        ids if reply.endswith(ENDLESS) else [*ids, vocabulary.eos_token_id]
    )
