"""The chat template that a tokenizer without one receives."""

from __future__ import annotations

from typing import Any

from safety_ray.core.tag import CHAT_END, CHAT_START

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML"""


def ensure_chat_template(tokenizer: Any) -> None:
    """Give `tokenizer` a chat template, its two delimiters and an end-of-turn token, if it has no template.

    In either case `split_special_tokens` becomes false: servers of chat models expect that control tokens in
    a rendered chat are encoded as such.
    """
    if not tokenizer.chat_template:
        delimiters = {"additional_special_tokens": [CHAT_START, CHAT_END]}
        tokenizer.add_special_tokens(delimiters, replace_extra_special_tokens=False)
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.eos_token = CHAT_END
    tokenizer.split_special_tokens = False
