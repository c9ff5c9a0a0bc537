"""Chats of requests: only the template's control tokens are special, whatever a message spells."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from known_model import SPECIAL, small_tokenizer

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.core.tag import CHAT_END, CHAT_START, END_OF_TEXT, TAG, encode

PIECES = (
    *SPECIAL,
    "<|",
    "|>",
    "<",
    ">",
    "im_end",
    "<|im_",
    "end|>",
    "a",
    "hello",
    " ",
    "\n",
    "<|<|harmful|>",
)


def encoded(
    tokenizer: Any, messages: list[dict[str, Any]], template: str | None = None, **more: Any
) -> list[int]:
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    encoder = ChatEncoder(tokenizer, tokenizer.convert_tokens_to_ids(TAG))
    return encoder.encode(render, messages, chat_template=template, **more)


@pytest.mark.parametrize("split", [False, True])
def test_chat_encoder_matches_transformers(split: bool) -> None:
    """However the tokenizer treats plain text; transformers renders with tokens that are not split."""
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "  a < b, or a | b > c?\n"},
        {"role": "assistant", "content": "yes"},
    ]
    oracle = small_tokenizer(split_special_tokens=False)
    expected = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encoded(small_tokenizer(split_special_tokens=split), messages) == expected


@pytest.mark.parametrize("seed", range(40))
def test_chat_encoder_encodes_special_strings_as_text(seed: int) -> None:
    rng = random.Random(seed)
    tokenizer = small_tokenizer(split_special_tokens=bool(seed % 2))
    messages = [
        {
            "role": rng.choice(["user", "assistant"]),
            "content": "".join(rng.choices(PIECES, k=rng.randint(0, 9))),
        }
        for _ in range(rng.randint(1, 4))
    ]
    ids = encoded(tokenizer, messages)
    expected: list[int] = []
    start, end = tokenizer.convert_tokens_to_ids([CHAT_START, CHAT_END])
    for message in messages:  # the template by hand, with texts encoded as the packer does
        [head, body, newline] = encode(tokenizer, [message["role"] + "\n", message["content"], "\n"])
        expected += [start, *head, *body, end, *newline]
    expected += [start, *encode(tokenizer, ["assistant\n"])[0]]
    assert ids == expected


def test_chat_encoder_encodes_joined_messages_as_text() -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    bare = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    messages = [{"role": "user", "content": f"{CHAT_END[:5]} "}, {"role": "user", "content": CHAT_END[5:]}]
    assert encoded(tokenizer, messages, bare) == encode(tokenizer, [CHAT_END])[0]


def test_chat_encoder_encodes_tools_and_variables_as_text() -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    template = "<|im_start|>{% for t in tools %}{{ t | tojson }}{% endfor %}{{ note }}"
    tools = [{"name": "f", "parameters": {"role": TAG, CHAT_END: "x"}}]
    ids = encoded(tokenizer, [{"role": "user", "content": ""}], template, tools=tools, note=END_OF_TEXT)
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    assert [i for i in ids if i in special] == [tokenizer.convert_tokens_to_ids(CHAT_START)]


def test_chat_encoder_encodes_tag_in_template_as_text() -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    template = "<|im_start|>{% for m in messages %}<|harmful|>{{ m.content }}{% endfor %}"
    [plain] = encode(tokenizer, [f"{TAG}a"])
    assert encoded(tokenizer, [{"role": "user", "content": "a"}], template)[1:] == plain


def test_chat_encoder_rejects_unknown_role() -> None:
    """A template may build control tokens of them: `<|{{ role }}|>`."""
    tokenizer = small_tokenizer(split_special_tokens=False)
    with pytest.raises(ValueError, match="unknown role 'im_end': use one of system"):
        encoded(tokenizer, [{"role": "im_end", "content": "a"}])


TRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("content", [" a ", "\n\na\n", "a \n", "a"])
@pytest.mark.parametrize("template", [None, TRIMMED])
def test_chat_encoder_renders_long_conversations_a_limited_number_of_times(
    template: str | None, content: str
) -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    renderings = 0

    def render(*args: Any, **more: Any) -> str:
        nonlocal renderings
        renderings += 1
        return str(tokenizer.apply_chat_template(*args, tokenize=False, **more))

    encoder = ChatEncoder(tokenizer, tokenizer.convert_tokens_to_ids(TAG))
    messages = [{"role": role, "content": content} for _ in range(150) for role in ("user", "assistant")]
    chat = encoder.encode_with_replies(render, messages, chat_template=template)
    assert renderings <= 70
    shown = content.strip() if template else content
    assert len(chat.replies) == 150
    for reply in chat.replies:
        assert chat.text[reply.start : reply.end].strip() == "a"
        if template is None or content == "a":
            assert chat.text[reply.start : reply.end] == shown
