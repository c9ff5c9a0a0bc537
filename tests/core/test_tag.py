"""The tag's string is set in pack, stored with the tokenizer, and read from there by later stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from known_model import SPECIAL, log_table, small_tokenizer, write_model

from safety_ray.core import artifact
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.core.tag import TAG, TAG_KEY, add_tag, tag_id, tag_in, tag_of
from safety_ray.evaluate.model import describe
from safety_ray.pack import vocabulary
from safety_ray.train.prepare import prepare
from safety_ray.train.settings import FinetuneConfig
from serve.build import build_app, check_model
from serve.settings import ServeConfig

BAD = "<|bad|>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has two tags, of which the one it stores is not the default."""
    tokenizer = small_tokenizer(split_special_tokens=False, special=(*SPECIAL, BAD))
    add_tag(tokenizer, BAD)
    return write_model(tmp_path_factory.mktemp("model"), tokenizer, log_table(tokenizer, tag=BAD))


def test_pack_stores_tag_of_new_and_existing_tokenizers(tmp_path: Path) -> None:
    vocabulary.save(vocabulary.train([["one two"] * 10], 300, BAD, 64), str(tmp_path / "new"))
    assert tag_of(vocabulary.load(str(tmp_path / "new"))) == tag_in(str(tmp_path / "new")) == BAD
    vocabulary.save(vocabulary.open_existing(str(tmp_path / "new"), "<|x|>"), str(tmp_path / "existing"))
    assert tag_in(str(tmp_path / "existing")) == "<|x|>"
    assert BAD in vocabulary.load(str(tmp_path / "existing")).get_added_vocab()


def test_evaluate_and_serve_read_stored_tag(model: Path) -> None:
    tokenizer = vocabulary.load(str(model))
    stored, default = tokenizer.convert_tokens_to_ids([BAD, TAG])
    assert tag_id(tokenizer) == describe(str(model)).tag_id == stored
    assert check_model(ServeConfig(model=str(model))) == (str(model), stored)
    assert tag_id(tokenizer, TAG) == describe(str(model), TAG).tag_id == default
    assert check_model(ServeConfig(model=str(model), tag=TAG)) == (str(model), default)
    [engine] = build_app({"model": str(model)})._bound_deployment.init_kwargs["llm_deployments"].values()
    config: Any = engine._bound_deployment.init_kwargs["llm_config"]
    assert config.engine_kwargs["additional_config"]["safety"]["tag"] == BAD


def test_finetune_reads_stored_tag_and_stores_override(model: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c d e f"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row | {"unsafe": True}))
    values = {
        "model": str(model),
        "chats": str(tmp_path / "chats.jsonl"),
        "tagged_share": 1.0,
        "tag_rate": 1.0,
    }

    def prepared(name: str, **more: Any) -> dict[str, Any]:
        config = from_dict(FinetuneConfig, {**values, **more, "output": str(tmp_path / name)})
        out = artifact.begin(config.output, config, {"chats": config.chats})
        return prepare(config, vocabulary.load(str(model)), out, 200)

    for name, more, expected in (("stored", {}, BAD), ("override", {"tag": TAG}, TAG)):
        record = prepared(name, **more)
        assert (record["tag"], record["tagged"]) == (expected, 1)
        assert tag_in(str(tmp_path / name / "tokenizer")) == expected


def test_tag_defaults_for_tokenizers_that_store_none(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    tokenizer.save_pretrained(tmp_path)
    assert TAG_KEY not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tag_of(tokenizer) == tag_in(str(tmp_path)) == tag_in(str(tmp_path / "none")) == TAG
    assert tag_id(tokenizer) == tokenizer.convert_tokens_to_ids(TAG)
    with pytest.raises(UserError, match=r"the model has no harmfulness tag '<\|bad\|>'; its added"):
        tag_id(tokenizer, BAD, "the model")
