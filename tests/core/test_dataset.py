"""Reading and writing rows: rejected rows, and interrupted writes that are resumed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_run import broken_run

from safety_ray.core import artifact, dataset, row_files
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT, SCORED


@dataclass(frozen=True)
class Settings:
    output: str
    seed: int = 0


def documents(folder: Path, rows: int) -> str:
    ids = [f"d{i:04}" for i in range(rows)]
    table = pa.table({"id": ids, "text": [f"text {i}" for i in ids], "colour": ["red"] * rows})
    dataset.write_table(table, str(folder / "a.parquet"))
    return str(folder)


def test_dataset_write_splits_kept_and_rejected_rows(tmp_path: Path, ray_cluster: None) -> None:
    source = documents(tmp_path / "in", 100)

    def mark(batch: pa.Table) -> pa.Table:
        reasons = ["ends in 7" if i.endswith("7") else None for i in batch.column("id").to_pylist()]
        return batch.append_column("rejected_reason", pa.array(reasons, pa.string()))

    out = artifact.begin(str(tmp_path / "out"), Settings(str(tmp_path / "out")), {"documents": source})
    ds = dataset.read(source, DOCUMENT).repartition(10).map_batches(mark, batch_format="pyarrow")
    counts = dataset.write(ds, out, label="mark", total=100)
    assert (counts.rows_out, counts.rejected) == (90, 10)
    out.commit(rows_in=100, rows_out=counts.rows_out, rejected=counts.rejected)
    kept = dataset.table(out.path)
    assert kept.column_names == ["id", "text", "colour"]
    assert not any(i.endswith("7") for i in kept.column("id").to_pylist())
    rejected = pq.read_table(tmp_path / "out/rejected").to_pylist()
    assert {row["rejected_reason"] for row in rejected} == {"ends in 7"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "data", "record.json", "rejected",
    ]  # fmt: skip
    assert dataset.count(out.path) == 90
    assert len(list(Path(out.path).glob("data/*.parquet"))) == 1, "the blocks are small"
    footers = {path.name: pq.read_metadata(path).num_rows for path in Path(out.path).glob("data/*.parquet")}
    assert {name: row_files.rows_by_name(f"{out.path}/data/{name}") for name in footers} == footers


def test_dataset_write_resumes_and_skips_written_rows(tmp_path: Path, ray_cluster: None) -> None:
    source, seen = documents(tmp_path / "in", 640), tmp_path / "seen"
    seen.mkdir()
    checkpoint = tmp_path / "out" / "_checkpoint"

    def work(batch: pa.Table, poison: str) -> pa.Table:
        ids = batch.column("id").to_pylist()
        if poison in ids:  # once something is written
            while all(".pending." in file.name for file in checkpoint.rglob("*.parquet")):
                time.sleep(0.05)
            raise ValueError("the machine is gone")
        (seen / f"{poison}-{ids[0]}").write_text("\n".join(ids))
        return batch.append_column("done", pa.array(["yes"] * len(ids)))

    def run(poison: str) -> dataset.Counts:
        out = artifact.begin(str(tmp_path / "out"), Settings(str(tmp_path / "out")), {"documents": source})
        ds = dataset.read(source, DOCUMENT).repartition(target_num_rows_per_block=32)
        ds = ds.map_batches(work, fn_kwargs={"poison": poison}, batch_format="pyarrow", batch_size=32)
        return dataset.write(ds, out, label="work", total=640, write_rows=32)

    broken_run(lambda: run("d0600"), "the machine is gone")
    assert artifact.begin(
        str(tmp_path / "out"), Settings(str(tmp_path / "out")), {"documents": source}
    ).resumed
    counts = run("none")
    assert (counts.rows_out, counts.rejected) == (640, 0)
    rows = pq.read_table(tmp_path / "out/data")
    assert sorted(rows.column("id").to_pylist()) == [f"d{i:04}" for i in range(640)]
    again = [i for path in seen.glob("none-*") for i in path.read_text().split("\n")]
    assert len(set(again)) == len(again) < 640  # what the broken run had written is not done again


def test_dataset_write_without_resume_starts_again(tmp_path: Path, ray_cluster: None) -> None:
    source = documents(tmp_path / "in", 50)
    out = artifact.begin(str(tmp_path / "out"), Settings(str(tmp_path / "out")), {"documents": source})
    first = dataset.read(source, DOCUMENT)
    assert dataset.write(first, out, label="one", total=50, resume_by=None).rows_out == 50
    (tmp_path / "out/data/_SUCCESS").unlink()  # killed before the end
    assert dataset.written(out) is None
    counts = dataset.write(dataset.read(source, DOCUMENT), out, label="two", total=50, resume_by=None)
    assert (counts.rows_out, counts.rejected) == (50, 0)
    assert len(pq.read_table(tmp_path / "out/data").column("id").unique()) == 50


def test_dataset_files_leaves_out_part_that_is_being_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset.write_table(pa.table({"id": ["a"]}), str(out / "data/first/x-k1-r0.parquet"))
    assert dataset.count(str(out / "data")) == 1
    row_files.start(fsspec.filesystem("file"), str(out), "first")
    for folder in ("data", "data/first"):
        with pytest.raises(UserError, match=r"/data.*' is not finished; run the stage that writes it"):
            dataset.files(str(out / folder))
    dataset.write_table(pa.table({"id": ["b", "c"]}), str(out / "data/again/x-k2-r0.parquet"))
    assert dataset.table(str(out / "data")).column("id").to_pylist() == ["b", "c"]


@pytest.mark.parametrize(
    ("rows", "files"),  # of documents of 2 KB
    [(100, 1), (100_000, 400), (10_000_000, 1000), (10**9, 15_000)],
)
def test_file_bytes_bound_the_number_of_files(rows: int, files: int) -> None:
    assert rows * 2000 / dataset.file_bytes(rows) == pytest.approx(files, rel=0.05, abs=1)


@pytest.mark.parametrize(
    ("total", "rows", "files"),
    [(None, 256, 0), (1000, 256, 4), (10**7, 256, 39_063), (10**8, 2000, 50_000), (10**9, 4096, 244_141)],
)
def test_llm_rows_bound_the_number_of_files(total: int | None, rows: int, files: int) -> None:
    assert dataset.llm_rows(0, total) == rows
    assert -(-(total or 0) // rows) == files
    assert dataset.llm_rows(7, total) == 7


def test_check_share_raises_for_too_many_rejected_rows(tmp_path: Path) -> None:
    reasons = pa.table({"rejected_reason": ["a", "b", "b"]})
    dataset.write_table(reasons, str(tmp_path / "rejected" / "x.parquet"))
    with pytest.raises(UserError, match=r"3 of 4 rows were rejected.*the most common reason is: b\."):
        dataset.check_share(str(tmp_path), dataset.Counts(1, 3), 0.5)


def test_dataset_read_rejects_missing_column_and_empty_folder(tmp_path: Path) -> None:
    source = documents(tmp_path / "in", 3)
    with pytest.raises(UserError, match="has no column 'score'"):
        dataset.read(source, SCORED)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no Parquet rows"):
        dataset.files(str(tmp_path / "empty"))


def test_dataset_names_file_that_is_not_parquet(tmp_path: Path) -> None:
    source = documents(tmp_path / "in", 3)
    (tmp_path / "in" / "z.parquet").write_bytes(b"PAR1 no PAR1")
    counts = [lambda: dataset.count(source), lambda: dataset.count_where(source, "id", ["a"])]
    reads = [lambda: dataset.table(source), lambda: dataset.count_groups(source, ["id"])]
    for read in [*counts, *reads]:
        with pytest.raises(UserError, match=r"in.* is not a readable Parquet file: .*[^.]\.$"):
            read()
    (tmp_path / "in" / "a.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a\.parquet' is not a readable Parquet file"):
        dataset.columns(source)


def test_dataset_reads_folder_whose_name_has_brackets(tmp_path: Path) -> None:
    source = documents(tmp_path / "run[1]" / "a?", 3)
    assert dataset.columns(source) == ["id", "text", "colour"]
    assert dataset.table(source).num_rows == dataset.count(source) == 3


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("id", pa.array([1, 2]), "int64"),
        ("id", pa.array(["a", "b"]).dictionary_encode(), "dictionary<.*>"),
        ("text", pa.array([b"a", b"b"]), "binary"),
    ],
)
def test_dataset_check_rejects_column_that_is_no_text(
    tmp_path: Path, column: str, values: pa.Array, kind: str
) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"]} | {column: values})
    dataset.write_table(table, str(tmp_path / "a.parquet"))
    message = f"the column '{column}' of '.*' must be text, not {kind}; convert it .* or run the ingest job"
    with pytest.raises(UserError, match=message):
        dataset.read(str(tmp_path), DOCUMENT)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_dataset_check_accepts_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"id": ["a"], "text": pa.array(["t"]).cast(kind)})
    dataset.write_table(table, str(tmp_path / "a.parquet"))
    dataset.check(str(tmp_path), DOCUMENT)


@pytest.mark.parametrize("statistics", [True, False])
def test_has_values_finds_a_value_in_any_file(statistics: bool, tmp_path: Path) -> None:
    def write(name: str, values: list[str | None]) -> None:
        column = pa.array(values, pa.string())
        table = pa.table({"id": ["a"] * len(values), "split": column})
        pq.write_table(table, tmp_path / name, row_group_size=2, write_statistics=statistics)

    write("a.parquet", [None] * 5)
    assert not dataset.has_values(str(tmp_path), "split")
    assert not dataset.has_values(str(tmp_path), "absent")
    assert dataset.has_values(str(tmp_path), "id")
    write("b.parquet", [None] * 3 + ["train"])
    assert dataset.has_values(str(tmp_path), "split")


def test_has_values_does_not_read_a_nested_column_of_the_name(tmp_path: Path) -> None:
    for name, nested, own in (("full", None, "train"), ("empty", "train", None)):
        (tmp_path / name).mkdir()
        rows = [{"meta": {"split": nested}, "split": own}]
        fields = [("meta", pa.struct([("split", pa.string())])), ("split", pa.string())]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), tmp_path / name / "a.parquet")
    assert dataset.has_values(str(tmp_path / "full"), "split")
    assert not dataset.has_values(str(tmp_path / "empty"), "split")
    assert dataset.has_values(str(tmp_path / "empty"), "meta")
