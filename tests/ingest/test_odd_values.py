"""Records with odd values: none ends the job or changes another one, and all rows are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ingest import IngestConfig, read_tables
from safety_ray.core.arrow_rows import to_rows
from safety_ray.ingest import finished_files, readers
from safety_ray.ingest.documents import OPTIONAL, TARGETS, row_schema
from safety_ray.judge.rubric import judgement
from safety_ray.train import prepare

DEEP = '{"id": "deep", "text": ' + "[" * 20_000 + "]" * 20_000 + "}"
GOOD = {"id": "good", "text": "A page about soup.", "token_count": 5}
COLUMNS = row_schema(list(OPTIONAL.names))


def fail(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def ingest(path: Path, **more: Any) -> list[dict[str, Any]]:
    """Return the rows of a file, as the tasks of the ingest job write them."""
    config = IngestConfig(input=str(path), output=str(path.parent / "out"), **more)
    readers.sample_fields([str(path)], config.format, set())
    tables = list(read_tables(str(path), config, COLUMNS, str(path.parent / "counts")))
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def sum_counts(folder: Path, name: str) -> dict[str, int]:
    return finished_files.sum_counts(finished_files.read_reports(str(folder)), name)


def ingest_lines(folder: Path, *lines: str) -> list[dict[str, Any]]:
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return ingest(path)


@pytest.mark.parametrize("value", ["1e999", "-1e999", str(10**40), str(2**63), "2.5", '"many"', "[1]"])
def test_jsonl_value_that_does_not_fit_is_left_out(tmp_path: Path, value: str) -> None:
    odd = f'{{"id": "odd", "text": "Some text.", "token_count": {value}, "unreadable": 1}}'
    good, row = ingest_lines(tmp_path, json.dumps(GOOD), odd)
    assert (good["token_count"], good["extra"], good["rejected_reason"]) == (5, None, None)
    assert (row["text"], row["token_count"], row["rejected_reason"]) == ("Some text.", None, None)
    assert json.loads(row["extra"])["unreadable"].keys() == {"token_count"}
    assert json.loads(row["extra"])["unreadable_"] == 1
    assert sum_counts(tmp_path / "counts", "unreadable") == {"token_count": 1}
    assert sum_counts(tmp_path / "counts", "ignored") == {}


def test_jsonl_line_nested_deeply_is_rejected(tmp_path: Path) -> None:
    deep, good = ingest_lines(tmp_path, DEEP, json.dumps(GOOD))
    assert deep["rejected_reason"].startswith("not JSON: maximum recursion depth exceeded")
    assert good["rejected_reason"] is None


@pytest.mark.parametrize("depth", [300, 900, 2_000, 5_000])
def test_jsonl_line_of_any_depth_is_kept_or_rejected(tmp_path: Path, depth: int) -> None:
    nested = '{"a":' * depth + "1" + "}" * depth
    row, good = ingest_lines(tmp_path, f'{{"id": "x", "text": "y", "field": {nested}}}', json.dumps(GOOD))
    assert (row["text"] == "y") != (row["rejected_reason"] is not None)
    assert good["rejected_reason"] is None


def test_chats_reader_rejects_deep_line(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(f'{DEEP}\n{{"messages": []}}\n')
    (_, reason), (_, row) = prepare.read(str(tmp_path))
    assert str(reason).startswith("invalid JSON: maximum recursion depth exceeded")
    assert row == {"messages": []}


def test_judge_reply_nested_deeply_is_no_judgement() -> None:
    with pytest.raises(ValueError, match="the judge's reply is not a JSON object"):
        judgement('{"score": ' + "[" * 20_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(10**40),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(st.characters()), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*TARGETS, "extra", "other"]), json_values), max_size=4))
def test_jsonl_rows_survive_any_json(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    rows = ingest_lines(tmp_path_factory.mktemp("json"), *map(json.dumps, records), json.dumps(GOOD))
    assert rows[-1]["text"] == GOOD["text"]
    for row, record in zip(rows[:-1], records, strict=True):
        accepted = row["rejected_reason"] is None
        assert row["text"] == (record.get("text") if accepted else None)
        assert row["extra"] is None or isinstance(json.loads(row["extra"], parse_constant=fail), dict)
        label = record.get("label")
        if type(label) is int and -128 <= label < 128:
            assert row["label"] == label


def raw(kind: pa.DataType, width: int, values: list[int]) -> pa.Array:
    """Return an array of `kind`, whose values are `width` bytes, with the bits of integers."""
    data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(data)])


def strings(values: list[bytes], kind: pa.DataType) -> pa.Array:
    """Return an array of strings with these bytes, valid UTF-8 or not."""
    binary = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(kind, len(values), binary.buffers())


FIXED = [
    *[(pa.timestamp(unit, zone), 8) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "A/B")],
    *[(pa.duration(unit), 8) for unit in ("s", "ms", "us", "ns")],
    (pa.date32(), 4), (pa.date64(), 8), (pa.time32("ms"), 4), (pa.time64("us"), 8), (pa.time64("ns"), 8),
    (pa.decimal128(38, 2), 16), (pa.float64(), 8), (pa.float32(), 4), (pa.float16(), 2), (pa.int64(), 8),
    (pa.uint64(), 8), (pa.int8(), 1),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parquet_rows_survive_any_value(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = 3
    column: dict[str, pa.Array] = {"id": pa.array(["a", "b", "c"]), "text": pa.array(["one", "two", "three"])}
    for name in data.draw(st.sets(st.sampled_from([*TARGETS[2:], "other", "text"]), min_size=1, max_size=3)):
        if name == "text" or data.draw(st.booleans()):
            values = data.draw(st.lists(st.binary(max_size=6), min_size=rows, max_size=rows))
            array = strings(values, data.draw(st.sampled_from([pa.string(), pa.large_string()])))
        else:
            kind, width = data.draw(st.sampled_from(FIXED))
            bits = st.integers(-(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)
            array = raw(kind, width, data.draw(st.lists(bits, min_size=rows, max_size=rows)))
        shape = data.draw(st.sampled_from(["plain", "struct", "list"])) if name == "other" else "plain"
        if shape == "struct":
            array = pa.StructArray.from_arrays([array, column["id"]], names=["a", "b"])
        elif shape == "list":
            array = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), array)
        column[name] = array
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    try:
        pq.write_table(pa.table(column), path)
    except pa.ArrowException:  # not every value can be stored
        return
    found = ingest(path)
    assert [row["id"] for row in found] == ["a", "b", "c"]
    for row, text in zip(found, column["text"].cast(pa.large_binary()).to_pylist(), strict=True):
        try:
            usable = text.decode("utf-8").strip() != ""
        except UnicodeDecodeError:
            usable = False
        assert (row["rejected_reason"] is None) == usable
        assert row["text"] == (text.decode() if usable else None)
        assert row["extra"] is None or isinstance(json.loads(row["extra"], parse_constant=fail), dict)


def test_not_a_number_becomes_null(tmp_path: Path) -> None:
    fields = '"url": NaN, "token_count": NaN, "n": NaN, "m": [{"x": -Infinity, "y": 1.5}]'
    odd = f'{{"id": NaN, "text": "a", {fields}}}'
    row, no_text = ingest_lines(tmp_path, odd, '{"id": "b", "text": NaN}')
    assert (row["text"], row["url"], row["token_count"]) == ("a", None, None)
    assert len(row["id"]) == 16
    assert row["extra"] == '{"n": null, "m": [{"x": null, "y": 1.5}]}'
    assert no_text["rejected_reason"] == "no text"


def test_parquet_ids_and_texts_of_other_types_are_converted(tmp_path: Path) -> None:
    ids = pa.array([7, 8, None], pa.int64())
    texts = pa.array(["caf\u00e9".encode(), b"caf\xe9", b"tea"], pa.binary())
    column = {
        "id": ids,
        "text": texts,
        "url": pa.array([b"u", b"\xff\x00", None]),
        "hash": pa.array([b"\xff", b"a", b""]),
    }
    pq.write_table(pa.table(column), tmp_path / "a.parquet")
    first, second, third = ingest(tmp_path / "a.parquet")
    assert (first["id"], first["text"], first["url"], first["extra"]) == (
        "7",
        "caf\u00e9",
        "u",
        '{"hash": "ff"}',
    )
    assert (second["id"], second["url"], second["extra"]) == ("8", "ff00", '{"hash": "a"}')
    assert second["rejected_reason"] == "text is not UTF-8 at byte 3; it is a column of bytes"
    assert (len(third["id"]), third["text"]) == (16, "tea")


def test_parquet_text_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    texts, urls = (
        strings([b"caf\xe9", b"tea", b"milk"], pa.string()),
        strings([b"u", b"v", b"\xff"], pa.string()),
    )
    meta = pa.StructArray.from_arrays([urls, pa.array([1, 2, 3])], names=["url", "n"])
    pq.write_table(
        pa.table({"id": ["a", "b", "c"], "text": texts, "url": urls, "meta": meta}), tmp_path / "a.parquet"
    )
    first, second, third = ingest(tmp_path / "a.parquet")
    assert first["rejected_reason"].startswith(
        "the text cannot be read (string: 'utf-8' codec can't decode byte 0xe9"
    )
    assert (second["text"], second["url"], json.loads(second["extra"])) == (
        "tea",
        "v",
        {"meta": {"url": "v", "n": 2}},
    )
    assert (third["text"], third["url"], third["rejected_reason"]) == ("milk", None, None)
    extra = json.loads(third["extra"])
    assert (extra["meta"], extra["unreadable"].keys()) == ({"n": 3}, {"url", "meta.url"})
    assert sum_counts(tmp_path / "counts", "unreadable") == {"text": 1, "url": 1, "meta.url": 1}
    mapped = ingest(tmp_path / "a.parquet", columns={"text": "meta.url", "url": "text"})
    assert [row["text"] for row in mapped] == ["u", "v", None]
    assert "the text cannot be read (string: " in mapped[2]["rejected_reason"]


def test_to_rows_leaves_out_values_without_python_type() -> None:
    batch = pa.record_batch({"n": pa.array([1, 2]), "day": raw(pa.date32(), 4, [4_000_000, 0])})
    (first, problems), (second, none) = to_rows(batch)
    assert (first, problems) == ({"n": 1}, {"day": "date32[day]: date value out of range"})
    assert (second["n"], str(second["day"]), none) == (2, "1970-01-01", {})
