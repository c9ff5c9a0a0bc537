"""Rows from partitions of a pack are those of one run, whatever is in which file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import write_rewritten, write_scored

from jobs.merge import MergeConfig, merge_partitions
from jobs.pack import PackConfig, pack_documents
from safety_ray.core import dataset, lost_work
from safety_ray.core.errors import UserError
from safety_ray.core.tag import TAG
from safety_ray.pack import vocabulary

DIFFERS = ("config", "seconds", "finished")
FILES = 4


def write_inputs(folder: Path, tokenizer: Any, *, split: bool) -> PackConfig:
    """Write scored documents, some of whose copies are in other files, and texts made from them."""
    rows = write_scored(folder / "scored", 90, split=split)
    rows += [{**row, "id": f"copy-of-{row['id']}"} for row in rows[:40]]
    rows[50] = {**rows[50], "score": None}  # which is rejected
    schema = dataset.schema_of(str(folder / "scored"))
    for number in range(FILES):
        table = pa.Table.from_pylist(rows[number::FILES], schema)
        dataset.write_table(table, str(folder / f"scored/part-{number}.parquet"))
    # A retelling has another file than the refusal that it was made from.
    scored = [row for row in rows if row["score"] is not None]
    write_rewritten(folder / "rewritten", scored, files=2 if split else 1)
    vocabulary.save(tokenizer, str(folder / "tokenizer"))
    return PackConfig(
        scored=str(folder / "scored"), rewritten=str(folder / "rewritten"), output=str(folder / "whole"),
        tokenizer=str(folder / "tokenizer"), row_length=64, tag_rate=0.3, shards=3, heldout_share=0.3,
        heldout_max=20, max_rejected=0.1, tags_start=0.2,
        mixture={"refusals": {"recipe": "refuse", "weight": 2.0, "start": 0.5}},
    )  # fmt: skip


def files_of(output: str) -> dict[str, Any]:
    """Return the contents of an output folder by name, without records and partitions."""
    found: dict[str, Any] = {}
    for path in filter(Path.is_file, Path(output).rglob("*")):
        name = path.relative_to(output)
        if name.parts[0] not in ("partitions", "rejected", "config.json", "record.json"):
            parquet = path.suffix == ".parquet"
            found[str(name)] = pq.read_table(path, partitioning=None) if parquet else path.read_bytes()
    return found


def rejected(output: str) -> list[tuple[str, str]]:
    rows = [
        row
        for path in Path(output, "rejected").rglob("*.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    return sorted((row["id"], row["rejected_reason"]) for row in rows)


@pytest.mark.parametrize("split", [True, False])
def test_pack_partitions_write_rows_of_one_run(
    split: bool, tokenizer: Any, tmp_path: Path, ray_cluster: None
) -> None:
    config = write_inputs(tmp_path, tokenizer, split=split)
    whole = pack_documents(config)
    parts = replace(config, output=str(tmp_path / "parts"))
    for index in (2, 1):  # without `split`, there is one file of rewritten texts, so the second one has none
        pack_documents(replace(parts, partition=f"{index}/2"))
    refuse_another_tokenizer(tmp_path / "parts")
    record = merge_partitions(MergeConfig(output=parts.output))

    assert {key for key in whole if whole[key] != record[key]} <= {*DIFFERS}
    assert record.keys() - whole.keys() == {lost_work.KEY}, "of the merge that was refused"
    assert whole.keys() <= record.keys()
    assert whole["duplicates"] > 0
    assert whole["heldout"] > whole["rejected"] > 0
    expected, found = files_of(config.output), files_of(parts.output)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert rejected(parts.output) == rejected(config.output)
    assert len(rejected(config.output)) == whole["rejected"]

    # A merge that is interrupted after two of three shards writes the third one.
    for name in ("data/shard-00001.parquet", "record.json"):
        (tmp_path / "parts" / name).unlink()
    assert merge_partitions(MergeConfig(output=parts.output))["tokens"] == whole["tokens"]
    assert files_of(parts.output) == expected
    assert pack_documents(parts)["tokens"] == whole["tokens"], "the folder is finished"


def refuse_another_tokenizer(output: Path) -> None:
    """Check that partitions with different tokenizers are not merged."""
    path = output / "partitions/2-of-2/record.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"tokenizer": "0" * 16}))
    with pytest.raises(UserError, match=r"2-of-2' was made with another tokenizer than partitions/1-of-2"):
        merge_partitions(MergeConfig(output=str(output)))
    path.write_text(text)


def test_pack_partition_needs_existing_tokenizer() -> None:
    with pytest.raises(UserError, match=r"partition=1/2 needs tokenizer=FOLDER or a hub id"):
        PackConfig(scored="a", output="b", partition="1/2", tag=TAG)
