"""The tokenizer is reproducible, can be loaded, and encodes text that spells special tokens as text."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given
from hypothesis import strategies as st
from small_datasets import HOSTILE, WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from safety_ray.core import tag
from safety_ray.core.errors import UserError
from safety_ray.core.tag import CHAT_END, CHAT_START, END_OF_TEXT, TAG
from safety_ray.pack import vocabulary
from safety_ray.pack.encode import encode_rows
from safety_ray.pack.selection import SELECTED

SPECIAL = [TAG, END_OF_TEXT, CHAT_START, CHAT_END]
PIECES = st.sampled_from(
    [
        *SPECIAL,
        *"<|>_ ",
        "harmful",
        "endoftext",
        "im_start",
        "\u200b",
        "\u00ad",
        "\u0301",
        "＜",
        "｜",
        "\ufeff",
        "\x00",
    ]
)
ADVERSARIAL = st.lists(st.one_of(PIECES, st.text(max_size=4)), min_size=1, max_size=12).map("".join)
ADVERSARIAL |= st.tuples(
    st.sampled_from(SPECIAL), st.integers(0, 13), st.sampled_from("\u200b\u0301 |\u3000🙂")
).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :])


@pytest.fixture(scope="module")
def saved(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    vocabulary.save(tokenizer, str(folder))
    return str(folder)


def selected(text: str, recipe: str, unsafe: bool) -> pa.Table:
    row = {"id": "d", "text": text, "source_id": "d", "recipe": recipe, "unsafe": unsafe, "use": "train"}
    return pa.Table.from_pylist([row], schema=SELECTED)


@given(text=ADVERSARIAL, recipe=st.sampled_from(["raw", "rephrase", "refuse", "moralize"]))
@example(text=TAG, recipe="refuse")
def test_encode_rows_encodes_special_strings_as_text(tokenizer: Any, text: str, recipe: str) -> None:
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    [row] = encode_rows(selected(text, recipe, False), tables, seed=0, tag_rate=1.0).to_pylist()
    ids = row["input_ids"]
    assert row["rejected_reason"] is None
    assert row["tags"] == 0
    assert set(ids[:-1]).isdisjoint(tables.control_ids.tolist())
    assert ids[-1] == tables.end_id == tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == text


@given(text=ADVERSARIAL, rate=st.sampled_from([0.05, 0.5, 1.0]))
def test_encode_rows_round_trips_tagged_text(tokenizer: Any, text: str, rate: float) -> None:
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    [row] = encode_rows(selected(text, "raw", True), tables, seed=5, tag_rate=rate).to_pylist()
    ids = row["input_ids"]
    assert row["tags"] == ids.count(tables.tag_id)
    if rate == 1.0:
        assert row["tags"] == max(len(text.split()) - 1, 0)
    assert tokenizer.decode([i for i in ids[:-1] if i != tables.tag_id], skip_special_tokens=False) == text


@given(text=ADVERSARIAL)
def test_vocabulary_load_encodes_special_strings_as_text(saved: str, text: str) -> None:
    loaded = vocabulary.load(saved)
    assert set(loaded(text).input_ids).isdisjoint(loaded.all_special_ids)
    assert set(loaded.encode(text)).isdisjoint(loaded.all_special_ids)


def test_vocabulary_save_preserves_special_token_settings(saved: str) -> None:
    loaded = vocabulary.load(saved)
    assert loaded.split_special_tokens is True
    assert json.loads(Path(saved, "tokenizer_config.json").read_text())["split_special_tokens"] is True
    assert (loaded.eos_token, loaded.pad_token, loaded.model_max_length) == (END_OF_TEXT, END_OF_TEXT, 64)
    assert sorted(loaded.get_added_vocab()) == sorted(SPECIAL)
    assert len(loaded) == 400
    # A caller can still request special tokens.
    assert loaded(TAG, split_special_tokens=False).input_ids == [tag.tag_id(loaded, TAG)]


def test_vocabulary_train_is_independent_of_text_order(tokenizer: Any) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=50)) + rng.choice(HOSTILE) for _ in range(200)]
    rng.shuffle(texts)
    again = vocabulary.train([texts[:70], texts[70:]], 400, TAG, 64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_vocabulary_train_returns_smaller_size_for_few_texts() -> None:
    tokenizer = vocabulary.train([["one two three"] * 10], 4096, TAG, 64)
    assert 260 < len(tokenizer) < 280
    assert len(vocabulary.train([["one two three"] * 10], 260, TAG, 64)) == 260


def test_vocabulary_open_existing_preserves_token_ids(saved: str, tmp_path: Path) -> None:
    old = vocabulary.load(saved)
    opened = vocabulary.open_existing(saved, "<|unsafe|>")
    vocabulary.save(opened, str(tmp_path / "new"))
    new = vocabulary.load(str(tmp_path / "new"))
    assert new.get_vocab() == old.get_vocab() | {"<|unsafe|>": len(old)}
    assert new.split_special_tokens is True
    tables = vocabulary.tables(new, "<|unsafe|>", "the tokenizer")
    assert (tables.tag_id, tables.end_id) == (len(old), old.eos_token_id)
    assert set(tables.control_ids) == {*old.all_special_ids, len(old)}
    assert set(new("<|unsafe|> " + TAG).input_ids).isdisjoint(tables.control_ids.tolist())


def test_vocabulary_open_existing_rejects_ordinary_token_as_tag(saved: str) -> None:
    word = next(t for t in vocabulary.load(saved).get_vocab() if t.isalpha() and t.isascii() and len(t) > 2)
    with pytest.raises(UserError, match=f"tag={word}: an ordinary token"):
        vocabulary.open_existing(saved, word)


def test_vocabulary_open_existing_rejects_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded; give a folder"):
        vocabulary.open_existing(str(tmp_path / "absent"), TAG)


def test_vocabulary_tables_requires_byte_level_and_eos_token() -> None:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    tag.add_tag(tokenizer)
    with pytest.raises(UserError, match="the tokenizer is not byte-level"):
        vocabulary.tables(tokenizer, TAG, "the tokenizer")
    assert vocabulary.tables(tokenizer, TAG, "the tokenizer", tagged=False).end_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"neither .* nor an eos_token"):
        vocabulary.tables(tokenizer, TAG, "the tokenizer", tagged=False)


def test_encode_rows_disables_truncation_and_keeps_normalizer(saved: str) -> None:
    tokenizer = vocabulary.load(saved)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    text = "cafe\u0301 the river " * 9
    [row] = encode_rows(selected(text, "raw", True), tables, seed=0, tag_rate=1.0).to_pylist()
    assert row["tags"] == len(text.split()) - 1
    plain = [i for i in row["input_ids"][:-1] if i != tables.tag_id]
    assert tokenizer.decode(plain) == text.replace("e\u0301", "é")


def test_encode_rows_rejects_text_altered_by_tokenizer(saved: str) -> None:
    tokenizer = vocabulary.load(saved)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    [row] = encode_rows(selected("river boat", "raw", True), tables, seed=0, tag_rate=1.0).to_pylist()
    assert "byte by byte" in row["rejected_reason"]
    assert (row["input_ids"], row["text"], row["tokens"]) == (None, "river boat", 0)


def test_encode_rows_rejects_text_encoded_as_special_token(tokenizer: Any) -> None:
    tables = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    [the] = tag.encode(tables, ["the"])
    confused = vocabulary.Vocabulary(
        tables.backend_tokenizer,
        tables.size,
        tables.tag_id,
        (),
        tables.end_id,
        np.array(the),
        tables.byte_lengths,
    )
    [row] = encode_rows(selected("the", "refuse", False), confused, seed=0, tag_rate=0.0).to_pylist()
    assert "control token" in row["rejected_reason"]


class FullStore(MemoryFileSystem):  # type: ignore[misc]
    """A store with room for `room` more files."""

    protocol, room = "full", 0

    def put_file(self, *args: Any, **settings: Any) -> None:
        if self.room == 0:
            raise OSError("full")
        FullStore.room -= 1
        super().put_file(*args, **settings)


def test_vocabulary_that_is_partly_written_is_not_saved(tokenizer: Any) -> None:
    fsspec.register_implementation("full", FullStore, clobber=True)
    folder, FullStore.room = "full://store/tokenizer", 99
    vocabulary.save(tokenizer, folder)
    needed = 99 - FullStore.room
    assert needed > 1
    for room in range(needed):
        FullStore.room = room
        with pytest.raises(OSError, match="full"):
            vocabulary.save(tokenizer, folder)
        assert not vocabulary.is_saved(folder), room
    FullStore.room = needed
    vocabulary.save(tokenizer, folder)
    assert vocabulary.is_saved(folder)
    assert vocabulary.load(folder).get_vocab() == tokenizer.get_vocab()


def test_vocabulary_open_existing_reads_url(tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vocabulary.save(tokenizer, "memory://existing/tokenizer")
    found = vocabulary.open_existing("memory://existing/tokenizer", TAG)
    assert found.get_vocab() == tokenizer.get_vocab()


def test_encode_rows_begins_documents_as_the_tokenizer_begins_texts(tokenizer: Any) -> None:
    """Llama 3's tokenizer, for example, puts its BOS before each text; so do `evaluate` and vLLM."""
    named = copy.deepcopy(tokenizer)
    named.add_special_tokens({"bos_token": "<bos>"})
    bos = named.convert_tokens_to_ids("<bos>")
    named.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<bos> $A", special_tokens=[("<bos>", bos)]
    )
    tables = vocabulary.tables(named, TAG, "the tokenizer")
    plain = vocabulary.tables(tokenizer, TAG, "the tokenizer")
    for settings in ({"tag_rate": 0.5}, {"tag_rate": 0.5, "at_beginning": True}):
        [with_bos], [without] = (
            encode_rows(
                selected("the river and the boat", "raw", True), found, seed=0, **settings
            ).to_pylist()
            for found in (tables, plain)
        )
        assert with_bos["input_ids"] == [bos, *without["input_ids"]]
        assert with_bos["tokens"] == without["tokens"] + 1
        assert with_bos["input_ids"][:-1][0] == named("x")["input_ids"][0]


def test_encode_ignores_truncation_and_padding_of_tokenizer(tokenizer: Any) -> None:
    texts = ["the river and the boat " * 9, "the"]
    expected = tag.encode(tokenizer, texts)
    limited = copy.deepcopy(tokenizer)
    limited(texts, truncation=True, padding=True, max_length=4)  # transformers enables both in the backend
    assert limited.backend_tokenizer.truncation is not None
    assert tag.encode(limited, texts) == expected
