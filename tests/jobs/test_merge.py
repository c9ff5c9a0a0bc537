"""Partitions are joined only if all are whole, and then read as one dataset. tests/slow runs real stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.label import LabelConfig
from jobs.merge import MergeConfig, merge_partitions
from safety_ray.core import artifact, dataset, lost_work, partition
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.ingest.readers import list_files

ENGINE = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}


def label_partition(source: Path, output: Path, index: int, number: int, **changes: Any) -> None:
    """Write a partition as the stage `label` does, without a judge. The last row is rejected."""
    values = {"documents": str(source), "output": str(output), "partition": f"{index}/{number}"}
    whole = from_dict(LabelConfig, {**values, "engine": ENGINE, **changes})
    config = partition.of(whole, "documents")
    out = artifact.begin(config.output, config, inputs={"documents": config.documents})
    rows = dataset.table(config.documents)
    kept, rejected = rows.slice(0, len(rows) - 1), rows.slice(len(rows) - 1)
    for name, table in (("data", kept), ("rejected", rejected)):
        dataset.write_table(table, out.sub(name, "first", f"t-k{len(kept)}-r1.parquet"))
    out.commit(
        rows_in=len(rows), rows_out=len(kept), rejected=1, engine="openai m", label_shortened=index,
        tokens={"read": 10, "padding": 0.5},
        lost_work={"workers": index, "nodes": 0, "rows": 4, "seconds": 1.5} if index > 1 else {},
        **partition.record("label", dataset.files, config.documents),
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for file in range(5):
        ids = [f"d{file}{row}" for row in range(4)]
        table = pa.table({"id": ids, "text": ids})
        dataset.write_table(table, str(tmp_path / "in" / f"{file}.parquet"))
    return tmp_path / "in"


def merge(output: Path) -> dict[str, Any]:
    return merge_partitions(MergeConfig(output=str(output)))


def test_merge_joins_partitions_as_one_dataset(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for index in (1, 2, 3):
        label_partition(source, output, index, 3)
    record = merge(output)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (20, 17, 3)
    assert record["label_shortened"] == 6
    assert record["engine"] == "openai m"
    assert record["tokens"] == {"read": 30}, "a share cannot be added up"
    assert record["lost_work"] == {"workers": 5, "nodes": 0, "rows": 8, "seconds": 3.0}
    assert lost_work.describe(record) == "lost work: 5 workers, 8 rows, 3.0 s"
    assert record["config"]["partition"] == ""
    rows = [*dataset.table(str(output)).column("id").to_pylist()]
    rejected = [
        row for n in (1, 2, 3) for row in dataset.table(f"{output}/partitions/{n}-of-3/rejected").to_pylist()
    ]
    assert sorted([*rows, *(row["id"] for row in rejected)]) == dataset.table(str(source))["id"].to_pylist()
    assert dataset.count(str(output)) == 17
    assert list_files(str(output)) == dataset.files(str(output)), "ingest reads no rejected rows"
    assert merge(output) == record, "a finished folder is skipped"
    # The stage itself takes the folder for its own, so that a pipeline continues from here.
    whole = from_dict(LabelConfig, {"documents": str(source), "output": str(output), "engine": ENGINE})
    assert artifact.begin(str(output), whole, {"documents": str(source)}).record == record


def test_merge_refuses_missing_or_unfinished_partition(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label_partition(source, output, 1, 3)
    label_partition(source, output, 3, 3)
    with pytest.raises(UserError, match=r"1 of 3 partitions are not finished; .* partition=2/3\."):
        merge(output)
    label_partition(source, output, 2, 3)
    (output / "partitions/2-of-3/record.json").unlink()
    with pytest.raises(UserError, match=r"1 of 3 partitions are not finished; .* partition=2/3\."):
        merge(output)
    assert not (output / "config.json").exists()


def test_merge_refuses_other_settings_and_inputs(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label_partition(source, output, 1, 2)
    label_partition(source, output, 2, 2, seed=1)
    with pytest.raises(UserError, match=r"2-of-2' was made with other settings: seed \(1 there, 0 now\)"):
        merge(output)
    shutil.rmtree(output / "partitions/2-of-2")
    dataset.write_table(pa.table({"id": ["new"], "text": ["new"]}), str(source / "9.parquet"))
    label_partition(source, output, 2, 2)
    with pytest.raises(UserError, match=r"2-of-2' was made from other inputs: documents changed"):
        merge(output)


def test_merge_refuses_overlap_and_lost_rows(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label_partition(source, output, 1, 2)
    label_partition(source, output, 2, 2)
    path = output / "partitions/2-of-2/record.json"
    record = json.loads(path.read_text())
    record["partition"]["files"].append(f"{source}/0.parquet")
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"1 files were read by two partitions, as '.*0\.parquet'"):
        merge(output)
    record["partition"]["files"].pop()
    path.write_text(json.dumps(record))
    next((output / "partitions/1-of-2/data").rglob("*.parquet")).unlink()
    with pytest.raises(UserError, match=r"1-of-2' has 1 rows, and its record counts 12; remove this folder"):
        merge(output)


def test_stage_without_partition_refuses_partitioned_folder(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label_partition(source, output, 1, 2)
    whole = from_dict(LabelConfig, {"documents": str(source), "output": str(output), "engine": ENGINE})
    with pytest.raises(UserError, match=r"has partitions of a stage; join them with jobs\.merge output="):
        artifact.begin(str(output), whole, {"documents": str(source)})
