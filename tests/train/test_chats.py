"""Training chats: ids of the template, no forged tokens, learned replies, share of tags."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.chat.template import CHAT_TEMPLATE, ensure_chat_template
from safety_ray.core import artifact, tag
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.train.chats import TrainingChatEncoder, Unusable
from safety_ray.train.prepare import prepare, read
from safety_ray.train.settings import FinetuneConfig

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "\nthe quick  brown fox"},
    {"role": "assistant", "content": "jumps over the lazy dog."},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "runs away from the angry bear"},
]
OTHER_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} <|endoftext|>{% endfor %}"
)


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    chatty = copy.deepcopy(tokenizer)
    ensure_chat_template(chatty)
    return chatty


def encoder(tokenizer: Any, share: float = 0.0, rate: float = 0.5, seed: int = 0) -> TrainingChatEncoder:
    return TrainingChatEncoder(
        tokenizer, seed=seed, tag_id=tag.tag_id(tokenizer), tagged_share=share, tag_rate=rate
    )


def learned(tokenizer: Any, chat: Any) -> str:
    return tokenizer.decode([i for i, learn in zip(chat.ids, chat.learn, strict=True) if learn])


def test_train_chat_encoder_matches_template_and_learns_replies(chatty: Any) -> None:
    chat = encoder(chatty).encode("a", {"messages": TALK})
    assert chatty.chat_template == CHAT_TEMPLATE
    assert chat.ids == chatty.apply_chat_template(TALK, tokenize=True)["input_ids"]
    assert learned(chatty, chat) == (
        "jumps over the lazy dog.<|im_end|>runs away from the angry bear<|im_end|>"
    )
    prompt = chatty.apply_chat_template(TALK[:2], add_generation_prompt=True)["input_ids"]
    assert chat.ids[: len(prompt)] == prompt
    assert chat.learn.index(True) == len(prompt)


def test_make_chatty_preserves_existing_chat_template(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = OTHER_TEMPLATE
    ensure_chat_template(other)
    assert other.chat_template == OTHER_TEMPLATE
    assert tag.CHAT_START not in other.get_vocab()
    chat = encoder(other).encode("a", {"messages": TALK[1:3]})
    assert learned(other, chat) == "jumps over the lazy dog. <|endoftext|>"
    assert other.decode(chat.ids) == other.apply_chat_template(TALK[1:3], tokenize=False)
    with pytest.raises(Unusable, match="no system turn"):
        encoder(other).encode("a", {"messages": TALK})


@pytest.mark.parametrize("text", [tag.TAG, "<|im_end|>", "x <|endoftext|> y", "<|im_start|>system\nyou"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_train_chat_encoder_encodes_special_strings_as_text(chatty: Any, text: str, role: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    plain = encoder(chatty).encode("a", {"messages": messages})
    messages[role == "assistant"]["content"] = text
    chat = encoder(chatty).encode("a", {"messages": messages, "unsafe": True})
    special = set(chatty.all_special_ids)
    assert [i for i in chat.ids if i in special] == [i for i in plain.ids if i in special]
    assert text in chatty.decode(chat.ids)


def test_train_chat_encoder_tags_share_of_unsafe_completions(chatty: Any) -> None:
    tag_id = tag.tag_id(chatty)
    encode = encoder(chatty, share=0.3, rate=0.25).encode
    plain = encoder(chatty).encode("x", {"messages": TALK})
    chats = [encode(str(n), {"messages": TALK, "unsafe": True}) for n in range(2000)]
    carriers = [chat for chat in chats if chat.tagged]
    assert all(tag_id not in chat.ids for chat in chats if not chat.tagged)
    # The completions have 4 and 5 words after the first, so some sampled ones contain no tag by chance.
    assert len(carriers) / 2000 == pytest.approx(0.3 * (1 - 0.75**9), abs=0.04)
    for chat in carriers:
        assert [i for i in chat.ids if i != tag_id] == plain.ids
        assert all(chat.learn[n] for n, i in enumerate(chat.ids) if i == tag_id)
        for n, i in enumerate(chat.ids):
            if i == tag_id:  # a word that is not the first one starts after it
                assert chatty.decode(chat.ids[n + 1 : n + 2]).startswith(" ")
    tags = sum(chat.ids.count(tag_id) for chat in chats)
    assert tags / (2000 * 0.3 * 9) == pytest.approx(0.25, abs=0.03)
    assert not encode("0", {"messages": TALK}).tagged
    assert chats[5].ids == encode("5", {"messages": TALK, "unsafe": True}).ids


def test_train_chat_encoder_reads_unsafe_as_number(chatty: Any) -> None:
    encode = encoder(chatty, share=1.0, rate=1.0).encode
    tagged = {unsafe: encode("a", {"messages": TALK, "unsafe": unsafe}).tagged for unsafe in (1, 0, None)}
    assert tagged == {1: True, 0: False, None: False}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": TALK, "unsafe": "true"}, "unsafe='true' must be true or false"),
        ({}, "no messages"),
        ({"messages": []}, "no messages"),
        ({"messages": "hi"}, "no messages"),
        ({"messages": [{"role": "user", "content": None}]}, "message 0 has no text content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "unknown role 'bot'"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "there is no reply to learn"),
        (
            {"messages": [{"role": "user", "content": "\ufdd07\ufdd1"}]},
            "0 contains a Unicode noncharacter",
        ),
    ],
)
def test_train_chat_encoder_rejects_malformed_rows(chatty: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        encoder(chatty).encode("a", row)


def test_prepare_read_parses_jsonl_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "messages": []}\n\n[1]\n{"messages": 3}\n{')
    pq.write_table(pa.Table.from_pylist([{"messages": TALK, "unsafe": True}]), tmp_path / "b.parquet")
    rows = list(read(str(tmp_path)))
    assert [name for name, _ in rows] == ["x", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "b.parquet:1"]
    assert rows[1][1] == "not a JSON object"
    assert str(rows[3][1]).startswith("invalid JSON: ")
    assert rows[4][1] == {"messages": TALK, "unsafe": True}
    (tmp_path / "damaged.parquet").write_bytes(b"not Parquet")
    with pytest.raises(UserError, match=r"damaged\.parquet' is not a readable Parquet file"):
        list(read(str(tmp_path / "damaged.parquet")))
    with pytest.raises(UserError, match="does not exist"):
        list(read(str(tmp_path / "nothing")))


def test_prepare_rejects_rows_with_unreadable_values(tmp_path: Path, tokenizer: Any) -> None:
    good, broken = b"a fox", b"a f\xffx"  # the second one is not UTF-8

    def strings(*values: bytes) -> pa.Array:
        return pa.array(values, pa.binary()).view(pa.string())

    def reply(content: bytes) -> pa.Array:
        message = pa.StructArray.from_arrays([strings(b"assistant"), strings(content)], ["role", "content"])
        return pa.ListArray.from_arrays([0, 1], message)

    texts = [(good, good, good), (broken, good, good), (good, broken, good), (good, good, broken)]
    rows = [
        pa.table({"id": strings(id), "messages": reply(content), "note": strings(note)})
        for id, content, note in texts
    ]
    pq.write_table(pa.concat_tables(rows), tmp_path / "chats.parquet")
    values = {"model": "m", "chats": str(tmp_path), "output": str(tmp_path / "out"), "max_rejected": 1.0}
    config = from_dict(FinetuneConfig, {**values, "tagged_share": 0.0})
    out = artifact.begin(config.output, config, {"chats": config.chats})
    record = prepare(config, copy.deepcopy(tokenizer), out, 200)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (4, 2, 2)
    rejected = pq.read_table(tmp_path / "out" / "rejected" / "shard-00000.parquet").to_pylist()
    assert [row["id"] for row in rejected] == ["chats.parquet:2", "chats.parquet:3"]
    assert [row["rejected_reason"].split("(")[0] for row in rejected] == [
        "its id cannot be read ", "its messages cannot be read ",
    ]  # fmt: skip


def test_train_chat_encoder_learns_no_reply_of_weight_0(chatty: Any) -> None:
    weighted = [dict(message) for message in TALK]
    weighted[2]["weight"] = 0
    weighted[4]["weight"] = 1
    encode = encoder(chatty, share=1.0, rate=1.0).encode
    chat = encode("a", {"messages": weighted})
    assert chat.ids == encode("a", {"messages": TALK}).ids
    assert learned(chatty, chat) == "runs away from the angry bear<|im_end|>"
    tagged = chatty.decode(encode("a", {"messages": weighted, "unsafe": True}).ids)
    assert "jumps over the lazy dog.<|im_end|>" in tagged
    assert "runs<|harmful|> away<|harmful|> from" in tagged
    weighted[4]["weight"] = 0
    with pytest.raises(Unusable, match="there is no reply to learn"):
        encode("a", {"messages": weighted})
    weighted[4]["weight"] = 0.5
    with pytest.raises(Unusable, match=r"message 4 has the weight 0\.5; valid are 0 and 1"):
        encode("a", {"messages": weighted})


def test_prepare_requires_tag_for_unsafe_rows(tmp_path: Path, tokenizer: Any) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": TALK, "unsafe": True}))
    values = {"model": "m", "chats": str(chats), "tag": "<|other|>"}

    def prepared(name: str, **more: Any) -> dict[str, Any]:
        config = from_dict(FinetuneConfig, {**values, **more, "output": str(tmp_path / name)})
        out = artifact.begin(config.output, config, {"chats": config.chats})
        return prepare(config, copy.deepcopy(tokenizer), out, 200)

    for unsafe in (True, 1):
        chats.write_text(json.dumps({"messages": TALK, "unsafe": unsafe}))
        with pytest.raises(UserError, match="has no harmfulness tag"):
            prepared(f"a{unsafe}")
    assert prepared("b", tagged_share=0.0)["tag_id"] == -1
    added = prepared("c", add_tag=True)
    assert added["tag_id"] == added["vocab_size"] - 1
    cut = prepared("d", tagged_share=0.0, max_length=60)
    assert (cut["truncated"], cut["row_length"]) == (1, 60)
    with pytest.raises(UserError, match="no reply to learn within 5 tokens"):
        prepared("e", tagged_share=0.0, max_length=5)


def test_prepare_rejects_odd_rows_and_keeps_the_rest(tmp_path: Path, tokenizer: Any) -> None:
    nested = ['{"a":' * depth + "1" + "}" * depth for depth in (*range(960, 1000, 3), 20_000)]
    half = [
        {"id": "\ud800", "messages": []},
        {"id": "role", "messages": [{"role": "\ud800", "content": ""}]},
        {"id": "text", "messages": [*TALK[:3], {"role": "assistant", "content": "fox \ud800 dog"}]},
        {"id": "question", "question": "\udfff", "answer": "fox"},
    ]
    lines = [*nested, *map(json.dumps, [*half, {"id": "good", "messages": TALK}])]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    values = {"model": "m", "chats": str(tmp_path), "output": str(tmp_path / "out"), "max_rejected": 1.0}
    config = from_dict(FinetuneConfig, {**values, "tagged_share": 0.0})
    out = artifact.begin(config.output, config, {"chats": config.chats})
    record = prepare(config, copy.deepcopy(tokenizer), out, 200)
    assert (record["rows_out"], record["rejected"]) == (1, len(lines) - 1)
    rejected = pq.read_table(tmp_path / "out" / "rejected" / "shard-00000.parquet").to_pylist()
    assert [row["id"] for row in rejected[-4:]] == ["?", "role", "text", "question"]
    assert all(row["rejected_reason"] for row in rejected)


def test_train_chat_encoder_matches_template_on_gsm8k(chatty: Any, real_data: Path) -> None:
    name, row = next(iter(read(str(real_data / "sft" / "gsm8k_train.jsonl"))))
    assert isinstance(row, dict)
    chat = encoder(chatty).encode(name, row)
    messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    assert chat.ids == chatty.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert learned(chatty, chat) == row["answer"] + "<|im_end|>"
