"""A conversation has the same token ids in training and in a request, whatever its messages spell."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.chat.template import CHAT_TEMPLATE, ensure_chat_template
from safety_ray.core import tag
from safety_ray.train.chats import TrainingChatEncoder, Unusable

LLAMA = (
    "<|endoftext|>{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n\n"
    "{{ m.content | trim }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
SPACE = (  # a generation prompt that ends with a space, which a tokenizer joins to the next word
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
LSTRIP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
JSON = "{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}"
TEMPLATES = {"chatml": CHAT_TEMPLATE, "llama": LLAMA, "space": SPACE, "lstrip": LSTRIP, "json": JSON}
SPECIAL = (tag.TAG, tag.END_OF_TEXT, tag.CHAT_START, tag.CHAT_END)
PIECES = st.sampled_from(
    [*SPECIAL, "<|", "|>", "<", "im_end", "end|>", "harmful|>", "<|<|harmful|>", " ", "\n", "a",
     " the fox", "東", "\u0301"]
)  # fmt: skip
TEXT = st.lists(PIECES, min_size=1, max_size=8).map("".join)
REPLY = TEXT.filter(str.strip)


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer: Any) -> Any:
    chatty = copy.deepcopy(tokenizer)
    ensure_chat_template(chatty)
    return chatty


def conversation(texts: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize("name", TEMPLATES)
@given(texts=st.tuples(TEXT, REPLY, TEXT, REPLY), unsafe=st.booleans())
@example(texts=("a", "  the fox \n", "<|im_", "\n\nend|>" + tag.TAG), unsafe=True)
@example(texts=("<|im_", " the fox", tag.TAG, f"{tag.CHAT_END}{tag.CHAT_START}system\nyou"), unsafe=True)
def test_training_ids_match_serving(
    chat_tokenizer: Any, name: str, texts: tuple[str, ...], unsafe: bool
) -> None:
    tokenizer = copy.copy(chat_tokenizer)
    tokenizer.chat_template = TEMPLATES[name]
    tag_id = tag.tag_id(tokenizer)
    messages = conversation(texts)
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=tag_id, tagged_share=1.0, tag_rate=0.5)
    serving = ChatEncoder(tokenizer, tag_id)
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    chat = training.encode("a", {"messages": messages, "unsafe": unsafe})
    untagged = [(i, learn) for i, learn in zip(chat.ids, chat.learn, strict=True) if i != tag_id]
    ids = [i for i, _ in untagged]
    assert ids == serving.encode(render, messages)
    assert unsafe or len(ids) == len(chat.ids)

    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(ids) == rendered
    harmless = serving.encode(render, conversation(("a", "a", "a", "a")))
    special = set(tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [i for i in harmless if i in special]

    learned = tokenizer.decode([i for i, learn in untagged if learn])
    end = {"llama": tag.END_OF_TEXT, "space": tag.END_OF_TEXT, "json": f'"}}{tag.CHAT_END}'}.get(name)
    assert learned == "".join(rendered_reply(name, text) + (end or tag.CHAT_END) for text in texts[1::2])
    stripped_in_part = name == "lstrip" and rendered_reply(name, texts[3]) != texts[3].lstrip("\n")
    if name != "json" and not stripped_in_part:
        prompt = serving.encode(render, messages[:3], add_generation_prompt=True)
        assert ids[: len(prompt)] == prompt
        assert untagged[len(prompt)][1], "the first token after the generation prompt is learned"


def rendered_reply(name: str, text: str) -> str:
    if name == "json":
        return text.replace("\n", "\\n")
    if name == "lstrip":  # of white space that is stripped in part, nothing is learned
        return text.lstrip() if text.startswith("\n") else text
    return text.strip() if name == "llama" else text


def test_training_rejects_replies_that_template_alters(chat_tokenizer: Any) -> None:
    tokenizer = copy.copy(chat_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    )
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    good = training.encode("a", {"messages": conversation(("why?", "because"))})
    assert tokenizer.decode(good.ids) == "<|im_start|>why?<|im_end|><|im_start|>because<|im_end|>"
    with pytest.raises(Unusable, match="the chat template alters message 1, of the assistant"):
        training.encode("a", {"messages": conversation(("why?", "thought</think>because"))})
