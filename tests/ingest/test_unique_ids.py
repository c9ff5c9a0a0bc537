"""Repeated ids are rejected after the documents are written, and again if that was interrupted."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.dataset import write_table
from safety_ray.ingest import unique_ids

SOURCES = [f"in/{n}.jsonl" for n in range(12)]  # in/10 sorts before in/2


def documents(seed: int) -> pa.Table:
    """Return documents in random order, of which some share their ids."""
    rng = random.Random(seed)
    rows = [
        {"id": f"i{rng.randrange(60)}", "source_file": source, "source_position": position}
        for source in SOURCES
        for position in rng.sample(range(1000), 9)
    ]
    rng.shuffle(rows)
    return pa.Table.from_pylist(rows).append_column("rejected_reason", pa.nulls(len(rows), pa.string()))


def firsts(rows: pa.Table) -> set[tuple[str, str, int]]:
    first: dict[str, tuple[str, int]] = {}
    for row in rows.to_pylist():
        place = (row["source_file"], row["source_position"])
        first[row["id"]] = min(first.get(row["id"], place), place)
    return {(id, *place) for id, place in first.items()}


def written(folder: Path) -> set[tuple[str, str, int]]:
    rows = pq.read_table(folder).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {(row["id"], row["source_file"], row["source_position"]) for row in rows}


def store(rows: pa.Table, output: Path, files: int) -> list[str]:
    for number in range(files):
        part = rows.take(pa.array(range(number, len(rows), files)))
        write_table(part, str(output / f"data/t{number}-k{len(part)}-r0.parquet"))
    return unique_ids.stored_files(str(output))


def repeated(stored: list[str]) -> pa.Table:
    keys = [
        unique_ids.read_keys({"stored": np.array([n]), "path": np.array([path])}, sorted(SOURCES))
        for n, path in enumerate(stored)
    ]
    return unique_ids.repeated(pa.concat_tables(keys))


@pytest.mark.parametrize("files", [1, 5])
def test_unique_ids_keep_first_row_by_file_and_position(tmp_path: Path, files: int) -> None:
    rows = documents(seed=files)
    stored = store(rows, tmp_path, files)
    unique_ids.reject_rows(repeated(stored), stored)
    assert written(tmp_path / "data") == firsts(rows)
    rejected = pq.read_table(tmp_path / "rejected").to_pylist()
    assert len(rejected) == len(rows) - len(firsts(rows))
    assert all(row["rejected_reason"] == f"duplicate id '{row['id']}'" for row in rejected)
    assert dataset.count(str(tmp_path / "data")) == len(firsts(rows))
    assert len(repeated(unique_ids.stored_files(str(tmp_path)))) == 0


def test_unique_ids_of_a_merge_keep_rows_that_a_partition_rejected(tmp_path: Path) -> None:
    """Each pass rejects one row of the same stored file."""
    rows = [
        ("c", "in/1.jsonl", 0), ("c", "in/1.jsonl", 1), ("a", "in/1.jsonl", 2), ("d", "in/1.jsonl", 3)
    ]  # fmt: skip
    names = ("id", "source_file", "source_position")
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    table = table.append_column("rejected_reason", pa.nulls(len(table), pa.string()))
    other = table.slice(2, 1).set_column(1, "source_file", pa.array(["in/0.jsonl"]))
    write_table(table, str(tmp_path / "data/t1-k4-r0.parquet"))
    stored = unique_ids.stored_files(str(tmp_path))
    unique_ids.reject_rows(repeated(stored), stored)
    write_table(other, str(tmp_path / "data/t0-k1-r0.parquet"))
    stored = unique_ids.stored_files(str(tmp_path))
    unique_ids.reject_rows(repeated(stored), stored)
    assert written(tmp_path / "data") == {rows[0], rows[3], ("a", "in/0.jsonl", 2)}
    rejected = pq.read_table(tmp_path / "rejected").to_pylist()
    assert {tuple(row[name] for name in names) for row in rejected} == {rows[1], rows[2]}
    assert dataset.stored(str(tmp_path)) == dataset.Counts(3, 2)


@pytest.mark.parametrize("written_again", [0, 1, 2])
def test_unique_ids_interrupted_rejection_is_repeated(tmp_path: Path, written_again: int) -> None:
    rows = documents(seed=7)
    complete, broken = tmp_path / "complete", tmp_path / "broken"
    stored = store(rows, complete, 3)
    unique_ids.reject_rows(repeated(stored), stored)
    store(rows, broken, 3)  # of which no file is deleted yet
    new = sorted((complete / "data").iterdir())[:written_again]
    for path in [*(complete / "rejected").iterdir(), *new]:
        (broken / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, broken / path.parent.name)
    (broken / "data/t2-k1-r0.parquet.part").write_bytes(b"half a file")
    stored = unique_ids.stored_files(str(broken))
    unique_ids.reject_rows(repeated(stored), stored)
    for folder in ("data", "rejected"):
        files = [sorted(path.name for path in (root / folder).iterdir()) for root in (complete, broken)]
        assert files[0] == files[1]
    assert written(broken / "data") == firsts(rows)


def test_ingest_stage_keeps_the_same_rows_for_any_number_of_files(tmp_path: Path, ray_cluster: None) -> None:
    rng = random.Random(1)
    lines = [json.dumps({"id": f"i{rng.randrange(40)}", "text": f"Page {n} of the web."}) for n in range(90)]
    kept = []
    for files in (1, 4):
        folder = tmp_path / f"in{files}"
        folder.mkdir()
        size = -(-len(lines) // files)
        for n in range(files):
            (folder / f"{n}.jsonl").write_text("\n".join(lines[n * size : (n + 1) * size]) + "\n")
        output = str(tmp_path / f"out{files}")
        record = ingest_documents(IngestConfig(input=str(folder), output=output, max_rejected=1.0))
        assert (record["rows_in"], record["rows_out"]) == (
            90,
            len({json.loads(line)["id"] for line in lines}),
        )
        kept.append(dataset.table(output, ["id", "text"]).to_pylist())
    first = {}
    for line in map(json.loads, lines):
        first.setdefault(line["id"], line["text"])
    assert kept[0] == kept[1] == [{"id": id, "text": text} for id, text in sorted(first.items())]
