"""Added tokens that are not marked as special are control tokens: only templates and replies contain them."""

from __future__ import annotations

import copy
import random
import re
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from known_model import SPECIAL, small_tokenizer
from tokenizers import AddedToken, processors

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.core.tag import CHAT_END, CHAT_START, END_OF_TEXT, TAG, encode
from safety_ray.pack import vocabulary
from safety_ray.pack.encode import encode_rows
from safety_ray.pack.selection import SELECTED
from safety_ray.train.chats import TrainingChatEncoder, Unusable

ADDED = ("<tool_call>", "</tool_call>", "<think>", "</think>")
SPACES = "      "
PIECES = (
    *ADDED,
    *SPECIAL,
    "<",
    ">",
    "<th",
    "ink>",
    "tool_call>",
    "<th<think>ink>",
    "a",
    "hello",
    " ",
    SPACES,
)
TEMPLATE = (  # as Qwen 3: reasoning of earlier replies is removed, tools are described in the first turn
    "{% if tools %}<|im_start|>system\n<tool_call>{{ tools | tojson }}</tool_call><|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = small_tokenizer(split_special_tokens=False)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    tokenizer.add_tokens([AddedToken(SPACES, special=False, normalized=False)])  # as in GPT-NeoX
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def ids_of(tokenizer: Any, *tokens: str) -> set[int]:
    return set(tokenizer.convert_tokens_to_ids(list(tokens)))


def spelled(tokenizer: Any, text: str) -> list[int]:
    """Return one token per character, which is what the vocabulary has beside added tokens."""
    names = {" ": "Ġ", "\n": "Ċ"}
    ids: list[int] = tokenizer.convert_tokens_to_ids([names.get(c, c) for c in text])
    return ids


@pytest.mark.parametrize("text", [*ADDED, "a<tool_call> b", "<th<think>ink>", "</think>" + TAG])
def test_tag_encode_spells_added_tokens(tokenizer: Any, text: str) -> None:
    assert encode(tokenizer, [text]) == [spelled(tokenizer, text)]
    assert encode(tokenizer, [f"a{SPACES}b"])[0][1] == tokenizer.convert_tokens_to_ids(SPACES)


@pytest.mark.parametrize("seed", range(20))
def test_encode_rows_spells_added_tokens(tokenizer: Any, seed: int) -> None:
    text = "".join(random.Random(seed).choices(PIECES, k=12))
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    document = {"id": "d", "text": text, "source_id": "d", "recipe": "raw", "unsafe": True, "use": "train"}
    rows = pa.Table.from_pylist([document], schema=SELECTED)
    [row] = encode_rows(rows, copy.deepcopy(tables), seed=0, tag_rate=1.0).to_pylist()
    *ids, end = row["input_ids"]
    assert end == tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    forbidden = ids_of(tokenizer, *ADDED, *SPECIAL) - {tables.tag_id}
    assert forbidden.isdisjoint(ids)
    assert set(tables.control_ids.tolist()) == forbidden | {tables.tag_id}
    plain = [i for i in ids if i != tables.tag_id]
    assert tokenizer.decode(plain, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("seed", range(40))
def test_chats_spell_added_tokens_except_in_replies(tokenizer: Any, seed: int) -> None:
    """The template by hand; in replies, only special tokens are spelled."""
    rng = random.Random(seed)
    roles = ("system", *("user", "assistant") * rng.randint(1, 2))
    messages = [{"role": role, "content": "".join(rng.choices(PIECES, k=8))} for role in roles]
    for message in messages[:-1]:
        if message["role"] == "assistant":
            message["content"] = message["content"].replace("</think>", "")
    tag_id, start, end, newline = tokenizer.convert_tokens_to_ids([TAG, CHAT_START, CHAT_END, "Ċ"])
    ids = dict(zip(ADDED, tokenizer.convert_tokens_to_ids(list(ADDED)), strict=True))
    expected: list[int] = []
    for message in messages:
        kept = "|".join(ADDED) if message["role"] == "assistant" else "$^"
        body: list[int] = []
        for part in re.split(f"({kept})", message["content"]):
            body += [ids[part]] if part in ids else encode(tokenizer, [part])[0]
        expected += [start, *spelled(tokenizer, message["role"] + "\n"), *body, end, newline]
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    assert ChatEncoder(tokenizer, tag_id).encode(render, messages) == expected
    if messages[-1]["content"].strip():
        training = TrainingChatEncoder(tokenizer, seed=0, tag_id=tag_id, tagged_share=0.0, tag_rate=0.0)
        assert training.encode("a", {"messages": messages}).ids == expected


def test_chats_spell_added_tokens_in_tools(tokenizer: Any) -> None:
    tools = [{"name": "</tool_call>", "note": f"{CHAT_END}<think>"}]
    messages = [{"role": "user", "content": "<tool_call>"}]
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    ids = ChatEncoder(tokenizer, None).encode(render, messages, tools=tools)
    rendered = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert tokenizer.decode(ids) == re.sub('[",{}]', "", rendered)  # which this tokenizer does not have
    control = [i for i in ids if i in ids_of(tokenizer, *ADDED, *SPECIAL)]
    of_template = (CHAT_START, "<tool_call>", "</tool_call>", CHAT_END, CHAT_START, CHAT_END)
    assert control == tokenizer.convert_tokens_to_ids(list(of_template))


PARTS = (  # as Qwen 3: the reasoning of the last reply is cut out and put back in
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if '</think>' in m.content %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("text", ["<think>\na<|im_end|>b\n</think>\n\nc", "<think>\n\n</think>\n\nc  "])
def test_training_learns_reasoning_that_template_takes_apart(tokenizer: Any, text: str) -> None:
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = PARTS
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    user, reply = {"role": "user", "content": "why"}, {"role": "assistant", "content": text}
    chat = training.encode("a", {"messages": [user, reply]})
    learned = tokenizer.decode([i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn])
    assert learned == f"{text}{CHAT_END}"
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(chat.ids[: chat.learn.index(True)]) == prompt
    with pytest.raises(Unusable, match="alters message 1"):
        training.encode("a", {"messages": [user, reply, user, {"role": "assistant", "content": "d"}]})
    with pytest.raises(Unusable, match="alters message 1"):  # the template adds line breaks
        training.encode("a", {"messages": [user, {**reply, "content": "<think>a</think>c"}]})


def test_training_rejects_reasoning_that_template_removes(tokenizer: Any) -> None:
    user, answer = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "a<think>b</think>c"}
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    chat = training.encode("a", {"messages": [user, answer]})
    learned = tokenizer.decode([i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn])
    assert learned == f"a<think>b</think>c{CHAT_END}"
    later = [user, answer, user, {"role": "assistant", "content": "d"}]
    with pytest.raises(Unusable, match="the chat template alters message 1, of the assistant"):
        training.encode("a", {"messages": later})
    # Not learned, it may be altered: as in a request, whose last reply follows a history without reasoning.
    chat = training.encode("a", {"messages": [user, {**answer, "weight": 0}, *later[2:]]})
    assert chat.ids == ChatEncoder(tokenizer, None).encode(render, later)
    assert tokenizer.decode(chat.ids).count("<think>") == 0
    assert (
        tokenizer.decode([i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn])
        == f"d{CHAT_END}"
    )


FIELD = (  # as Qwen 3: the reasoning of replies after the last question is rendered
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set ns.last = messages.index(m) %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content is string and loop.index0 > ns.last %}"
    "<think>\n{{ m.reasoning_content.strip('\n') }}\n</think>\n\n{{ m.content.lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nBEGIN{% endif %}"
)


@pytest.mark.parametrize("begin", ["", "<think>\n"])
@pytest.mark.parametrize("text", ["a</think>b", " a\n", "<|im_end|>"])
def test_training_learns_reasoning_field_as_model_writes_it(tokenizer: Any, begin: str, text: str) -> None:
    """With `begin`, the generation prompt has the delimiter, and the model does not write it."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = FIELD.replace("BEGIN", begin)
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    asked = [{"role": "user", "content": "why"}]
    reply = {"role": "assistant", "content": "c", "reasoning_content": text}
    chat = training.encode("a", {"messages": [*asked, reply]})
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*asked, reply], tokenize=False)
    learned = [i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn]
    assert whole.startswith(prompt)
    assert tokenizer.decode(learned) == whole.removeprefix(prompt).removesuffix("\n")
    assert tokenizer.decode(chat.ids) == whole
    assert chat.ids.count(tokenizer.convert_tokens_to_ids("</think>")) == 1, "the text does not become one"
    assert (chat.reasoning, chat.ignored) == (1, 0)


def test_training_counts_reasoning_that_is_not_rendered(tokenizer: Any) -> None:
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    user = {"role": "user", "content": "why", "reasoning_content": "not a reply"}
    reply = {"role": "assistant", "content": "c", "thinking": "hello"}
    chat = training.encode("a", {"messages": [user, reply]})
    assert (chat.reasoning, chat.ignored) == (0, 1)
    assert training.encode("a", {"messages": [user, {**reply, "thinking": None}]}).ignored == 0
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = FIELD.replace("BEGIN", "")
    training = TrainingChatEncoder(tokenizer, seed=0, tag_id=None, tagged_share=0.0, tag_rate=0.0)
    first, last = ({**reply, "reasoning_content": text} for text in ("first", "last"))
    chat = training.encode("a", {"messages": [user, first, {**user, "content": "how"}, last]})
    learned = tokenizer.decode([i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn])
    assert learned == f"c{CHAT_END}<think>\nlast\n</think>\n\nc{CHAT_END}"
    assert (chat.reasoning, chat.ignored) == (1, 1)
    unlearned = {**last, "weight": 0}
    chat = training.encode("a", {"messages": [user, unlearned, {**user, "content": "how"}, last]})
    assert (chat.reasoning, chat.ignored) == (1, 0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("special", [True, False])
def test_encode_text_matches_transformers(tokenizer: Any, side: str, special: bool) -> None:
    """With a beginning-of-text token, and truncated; the oracle splits special tokens only."""
    starting = copy.deepcopy(tokenizer)
    starting.truncation_side = side
    template = processors.TemplateProcessing(
        single=f"{CHAT_START} $A", special_tokens=[(CHAT_START, starting.convert_tokens_to_ids(CHAT_START))]
    )
    starting.backend_tokenizer.post_processor = template
    encoder = ChatEncoder(starting, None)
    text = f"hello {TAG} there"
    for length in (None, 1, 2, 5, 1000):
        arguments = {"add_special_tokens": special, "truncation": length is not None, "max_length": length}
        expected = starting(text, split_special_tokens=True, **arguments)["input_ids"]
        assert encoder.encode_text(text, **arguments) == expected
    ids = encoder.encode_text("<think>", add_special_tokens=special)
    assert ids == [starting.convert_tokens_to_ids(CHAT_START)] * special + spelled(tokenizer, "<think>")
