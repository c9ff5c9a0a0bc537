"""Packing compared with a reference that appends one token at a time."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from safety_ray.core.records import LEARN, TOKEN_ROW, schema
from safety_ray.pack.planning import first_rows
from safety_ray.pack.rows import pack_rows

END = 7
DOCUMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(8, 99), max_size=70), st.booleans()),
    min_size=1,
    max_size=12,
)


def encoded(documents: list[tuple[int, list[int], bool]]) -> pa.Table:
    rows = [
        {
            "shard": 0,
            "order": order,
            "id": f"d{number}",
            "source_id": f"s{number}",
            "recipe": "raw" if unsafe else "rephrase",
            "unsafe": unsafe,
            "input_ids": [*ids, END],
        }
        for number, (order, ids, unsafe) in enumerate(documents)
    ]
    types = {"order": pa.uint64(), "input_ids": pa.list_(pa.int32())}
    return pa.table({k: pa.array([r[k] for r in rows], types.get(k)) for k in rows[0]})


def reference_rows(
    rows: list[dict[str, Any]], length: int
) -> tuple[list[list[int]], list[list[dict[str, Any]]]]:
    """Return the ids and spans of the rows, built one token at a time."""
    ids: list[list[int]] = []
    spans: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda r: (r["order"], r["id"])):
        new_span = True
        for token in row["input_ids"]:
            if not ids or len(ids[-1]) == length:
                ids.append([])
                spans.append([])
                new_span = True
            if new_span:
                document = {k: row[k] for k in ("id", "source_id", "recipe", "unsafe")}
                spans[-1].append(document | {"start": len(ids[-1]), "length": 0})
                new_span = False
            ids[-1].append(token)
            spans[-1][-1]["length"] += 1
    ids[-1] += [END] * (length - len(ids[-1]))
    return ids, spans


@given(documents=DOCUMENTS, length=st.integers(16, 40), first=st.integers(0, 9))
def test_pack_rows_matches_token_by_token_reference(
    documents: list[tuple[int, list[int], bool]], length: int, first: int
) -> None:
    table = encoded(documents)
    packed = pack_rows(table, length, END, first)
    assert packed.schema == schema(TOKEN_ROW)
    packed.validate(full=True)
    ids, spans = reference_rows(table.to_pylist(), length)
    assert packed.column("input_ids").to_pylist() == ids
    assert packed.column("spans").to_pylist() == spans
    assert packed.column("row").to_pylist() == list(range(first, first + len(ids)))
    assert pack_rows(table.take(pa.array(range(len(table))[::-1])), length, END, first).equals(packed)


@given(documents=DOCUMENTS, length=st.integers(16, 40), tags=st.booleans(), unsafe=st.booleans())
def test_pack_rows_learn_tags_and_unsafe_text_as_asked(
    documents: list[tuple[int, list[int], bool]], length: int, tags: bool, unsafe: bool
) -> None:
    tag = documents[0][1][0] if documents[0][1] else END
    packed = pack_rows(encoded(documents), length, END, 0, tag_id=tag, learn_tags=tags, learn_unsafe=unsafe)
    if tags and unsafe:
        assert LEARN not in packed.column_names
        return
    for row in packed.to_pylist():
        for span in row["spans"]:
            place = slice(span["start"], span["start"] + span["length"])
            for token, learned in zip(row["input_ids"][place], row[LEARN][place], strict=True):
                assert learned == (tags if token == tag else unsafe or not span["unsafe"])


def test_pack_rows_is_independent_of_table_chunks() -> None:
    table = encoded([(3, list(range(8, 60)), True), (1, [9], False), (2, list(range(8, 30)), True)])
    chunks = pa.concat_tables([table.slice(0, 1), table.slice(1, 2)])
    assert pack_rows(chunks, 16, END, 0).equals(pack_rows(table, 16, END, 0))


def test_first_rows_numbers_shards_consecutively() -> None:
    assert first_rows({2: 33, 0: 16, 1: 17}, 16) == ({0: 0, 1: 1, 2: 3}, 6)
