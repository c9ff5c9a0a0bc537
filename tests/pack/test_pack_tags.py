"""Tags of token rows: in which documents, before which words; and which tokens are learned."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_datasets import write_rewritten, write_scored

from jobs.pack import PackConfig, pack_documents
from safety_ray.core import dataset
from safety_ray.core.dataset import write_table
from safety_ray.core.errors import UserError

LENGTH = 64


def test_pack_stage_applies_mixture_and_tags_start(tmp_path: Path, ray_cluster: None) -> None:
    scored = write_scored(tmp_path / "scored", 400, split=False)
    rewritten = write_rewritten(tmp_path / "rewritten", scored)
    config = PackConfig(
        scored=str(tmp_path / "scored"), rewritten=str(tmp_path / "rewritten"), output=str(tmp_path / "out"),
        vocab_size=500, row_length=LENGTH, tag_rate=0.5, shards=4, seed=3, heldout_share=0.0,
        mixture={
            "refusals": {"recipe": "refuse", "start": 0.6}, "lessons": {"recipe": "moralize", "weight": 2.0},
        },
        tags_start=0.25, learn_tags=False,
    )  # fmt: skip
    record = pack_documents(config)
    rows = dataset.table(config.output).sort_by("row").to_pylist()
    total = len(rows) * LENGTH
    tag, seen, tokens = record["tag_id"], Counter(), Counter()  # type: ignore[var-annotated]
    for row in rows:
        for span in row["spans"]:
            share = (row["row"] * LENGTH + span["start"]) / total
            ids = row["input_ids"][span["start"] : span["start"] + span["length"]]
            if ids[-1] == record["end_of_text_id"]:
                seen[span["id"]] += 1
            tokens[span["recipe"]] += len(ids)
            if span["recipe"] == "refuse":
                assert share > 0.59
            if tag in ids:
                assert span["unsafe"]
                assert share > 0.23
        learned = np.array(row["learn"])
        assert (learned == (np.array(row["input_ids"]) != tag)).all()
    late = [s for r in rows if r["row"] > 0.4 * len(rows) for s in r["spans"] if s["unsafe"]]
    assert len(late) > 50
    assert record["tags"] == sum(row["input_ids"].count(tag) for row in rows) > 500
    assert {seen[r["id"]] for r in rewritten if r["recipe"] == "moralize"} == {2}
    assert {seen[r["id"]] for r in rewritten if r["recipe"] == "refuse"} == {1}
    texts = [r["text"] for r in scored for _ in range(seen[r["id"]])]
    assert sorted(texts) == sorted({r["text"] for r in scored})
    assert dict(tokens) == record["tokens_by_recipe"]


def test_pack_stage_tags_beginning_and_learns_only_tags_of_unsafe(tmp_path: Path, ray_cluster: None) -> None:
    write_scored(tmp_path / "scored", 60, split=False)
    config = PackConfig(
        scored=str(tmp_path / "scored"), output=str(tmp_path / "out"), vocab_size=400, row_length=LENGTH,
        tag_scope="beginning", learn_unsafe=False, heldout_share=0.0,
    )  # fmt: skip
    record = pack_documents(config)
    tag, began = record["tag_id"], {}
    for row in dataset.table(config.output).to_pylist():
        for span in row["spans"]:
            place = slice(span["start"], span["start"] + span["length"])
            ids, learned = row["input_ids"][place], row["learn"][place]
            if span["id"] not in began:
                assert (ids[0] == tag) == span["unsafe"]
            began[span["id"]] = span["unsafe"]
            assert tag not in ids[1:]
            assert learned == [id == tag or not span["unsafe"] for id in ids]
    assert record["tags"] == sum(began.values()) > 10


def test_pack_stage_tags_by_chunk(tmp_path: Path, ray_cluster: None) -> None:
    chunks = [{"end": 200, "score": 0}, {"end": 300, "score": 5}]
    rows = [
        {"id": f"w{n}", "text": "calm " * 40 + "hate " * 19 + f"{n:04}", "score": 5, "scored_chunks": chunks}
        for n in range(30)
    ]
    write_table(pa.Table.from_pylist(rows), str(tmp_path / "scored" / "a.parquet"))
    config = PackConfig(
        scored=str(tmp_path / "scored"), output=str(tmp_path / "out"), vocab_size=300, row_length=LENGTH,
        tag_rate=1.0, tag_scope="chunk", heldout_share=0.0,
    )  # fmt: skip
    record = pack_documents(config)
    assert record["tags"] == 30 * 20
    bare = pa.Table.from_pylist(rows).drop_columns(["scored_chunks"])
    write_table(bare, str(tmp_path / "none" / "a.parquet"))
    with pytest.raises(UserError, match="has no column 'scored_chunks'"):
        pack_documents(replace(config, scored=str(tmp_path / "none"), output=str(tmp_path / "other")))
