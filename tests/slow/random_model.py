"""A model of random weights whose tag is likely, and its most likely answers, computed by transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from known_model import small_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.core.tag import END_OF_TEXT, TAG, encode


class RandomModel:
    """The model in fp32, with at most `positions` tokens, and its tokenizer; both are saved in `folder`."""

    def __init__(self, folder: Path, positions: int) -> None:
        self.tokenizer = small_tokenizer(split_special_tokens=True)
        self.end, self.tag = self.tokenizer.convert_tokens_to_ids([END_OF_TEXT, TAG])
        torch.manual_seed(0)
        shape = LlamaConfig(
            vocab_size=len(self.tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=positions,
            initializer_range=0.3, bos_token_id=None, eos_token_id=self.end, tie_word_embeddings=False,
        )  # fmt: skip
        self.model = LlamaForCausalLM(shape).float().eval()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def ids(self, text: str) -> list[int]:
        [ids] = encode(self.tokenizer, [text])
        return list(ids)

    def answer(self, ids: list[int], new_tokens: int, stops: list[str] = []) -> str:  # noqa: B006
        """Return the most likely answer without the tag, up to the first stop string."""
        out = self.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), pad_token_id=0,
            max_new_tokens=new_tokens, do_sample=False, suppress_tokens=[self.tag],
        )[0, len(ids) :]  # fmt: skip
        text = self.tokenizer.decode(out, skip_special_tokens=True)
        ends = [text.index(stop) for stop in stops if stop in text]
        return str(text[: min(ends, default=len(text))])
