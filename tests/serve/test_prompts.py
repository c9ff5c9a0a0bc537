"""Text prompts in vLLM: no text becomes a special token."""

from __future__ import annotations

from pathlib import Path

from known_model import log_table, small_tokenizer, write_model

from safety_ray.core.tag import END_OF_TEXT, TAG, encode


def test_vllm_tokenizer_honors_saved_split_special_tokens(tmp_path: Path) -> None:
    """Without `split_special_tokens` in the saved tokenizer, text would become the tag."""
    from vllm.tokenizers import get_tokenizer
    from vllm.tokenizers.hf import maybe_make_thread_pool

    text = f"a{TAG}b{END_OF_TEXT}"
    for split in (True, False):
        tokenizer = small_tokenizer(split_special_tokens=split)
        folder = write_model(tmp_path / str(split), tokenizer, log_table(tokenizer))
        ids = maybe_make_thread_pool(get_tokenizer(str(folder)))(text)["input_ids"]
        assert (ids == encode(tokenizer, [text])[0]) is split
