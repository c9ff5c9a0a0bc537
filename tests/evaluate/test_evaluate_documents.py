"""Samples of documents, and their prompts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.evaluate.documents import Document, beginnings, choose


def folder(path: Path, rows: list[dict[str, Any]], *, files: int = 1) -> str:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    for name in ("label", "score"):
        if name in rows[0]:
            schema = schema.append(pa.field(name, pa.int8()))
    for part in range(files):
        dataset.write_table(pa.Table.from_pylist(rows[part::files], schema), str(path / f"{part}.parquet"))
    return str(path)


def rows(number: int, level: int, column: str = "label", start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"{level}-{n}", "text": f"text {level} {n}", column: level} for n in range(start, number)]


def test_choose_documents_is_independent_of_file_and_order(tmp_path: Path) -> None:
    documents = [*rows(60, 0), *rows(60, 1), *rows(50, 2), *rows(50, 3), *rows(40, 4), *rows(40, 5)]
    one_file = folder(tmp_path / "one", documents)
    many_files = folder(tmp_path / "many", documents[::-1], files=5)
    sample = choose([one_file], safe_up_to=1, unsafe_from=4, limit=30, seed=0)
    assert sample == choose([many_files], safe_up_to=1, unsafe_from=4, limit=30, seed=0)
    assert sample != choose([one_file], safe_up_to=1, unsafe_from=4, limit=30, seed=1)
    safe, unsafe, others = sample
    assert others == {False: 90, True: 50}
    assert len(safe) == len(unsafe) == 30
    assert {d.id[0] for d in safe} == {"0", "1"}
    assert {d.id[0] for d in unsafe} == {"4", "5"}
    assert all(d.text == f"text {d.id[0]} {d.id[2:]}" for d in [*safe, *unsafe])
    assert [d.unsafe for d in safe] + [d.unsafe for d in unsafe] == [False] * 30 + [True] * 30
    larger = choose([one_file], safe_up_to=1, unsafe_from=4, limit=50, seed=0)[0]
    assert safe == larger[:30], "a larger sample begins with the smaller one"


def test_choose_documents_prefers_label_and_first_dataset(tmp_path: Path) -> None:
    first = folder(
        tmp_path / "first",
        [
            {"id": "a", "text": "from first", "label": 0, "score": 5},
            {"id": "b", "text": "scored only", "label": None, "score": 5},
            {"id": "c", "text": "neither", "label": None, "score": None},
            {"id": "d", "text": "", "label": 5, "score": 5},
            {"id": "e", "text": None, "label": 5, "score": 5},
        ],
    )
    second = folder(
        tmp_path / "second",
        [{"id": "a", "text": "from second", "score": 5}, {"id": "b", "text": "again", "score": 0}],
    )
    safe, unsafe, _ = choose([first, second], safe_up_to=1, unsafe_from=4, limit=9, seed=0)
    assert safe == [Document("a", "from first", False, group="a")]
    assert unsafe == [Document("b", "scored only", True, group="b")]


@pytest.mark.parametrize("limit", [1, 3, 20, 100])
def test_choose_documents_equals_brute_force_with_duplicates(tmp_path: Path, limit: int) -> None:
    rng = random.Random(1)
    datasets = [
        [
            {
                "id": f"d{rng.randrange(60)}",
                "text": rng.choice(["", f"{name}-{n}"]),
                "label": rng.choice([0, 2, 5, None]),
            }
            for n in range(80)
        ]
        for name in "ab"
    ]
    paths = [folder(tmp_path / str(n), part) for n, part in enumerate(datasets)]
    first: dict[str, dict[str, Any]] = {}
    for row in (row for part in datasets for row in part):
        if row["text"] and row["label"] is not None:
            first.setdefault(row["id"], row)
    ordered = sorted(first.values(), key=lambda row: stable_hash(7, row["id"]))
    safe, unsafe, others = choose(paths, safe_up_to=1, unsafe_from=4, limit=limit, seed=7)
    rows_of = [row["label"] for part in datasets for row in part if row["text"]]
    assert others == {False: rows_of.count(0) - len(safe), True: rows_of.count(5) - len(unsafe)}
    for documents, label in ((safe, 0), (unsafe, 5)):
        assert [d.id for d in documents] == [r["id"] for r in ordered if r["label"] == label][:limit]


def test_choose_documents_rejects_empty_side(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", [*rows(7, 0), *rows(4, 3)])
    with pytest.raises(UserError, match=r"7 safe .*safe_up_to=1\) and 0 unsafe .*unsafe_from=4"):
        choose([path], safe_up_to=1, unsafe_from=4, limit=9, seed=0)


def test_choose_documents_rejects_missing_columns(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", [{"id": "x", "text": "y"}])
    with pytest.raises(UserError, match="no column 'label' or 'score'"):
        choose([path], safe_up_to=1, unsafe_from=4, limit=9, seed=0)
    dataset.write_table(pa.table({"id": ["x"], "label": [1]}), str(tmp_path / "b" / "0.parquet"))
    with pytest.raises(UserError, match="no column 'text'"):
        choose([str(tmp_path / "b")], safe_up_to=1, unsafe_from=4, limit=9, seed=0)


def test_choose_documents_reads_group_and_source_columns(tmp_path: Path) -> None:
    table = pa.table(
        {"id": ["a", "b"], "text": ["x", "y"], "label": [0, 5], "family": ["f", None], "kind": [1, 2]}
    )
    dataset.write_table(table, str(tmp_path / "rows.parquet"))
    settings: dict[str, Any] = {"safe_up_to": 1, "unsafe_from": 4, "limit": 9, "seed": 0}
    [safe], [unsafe], _ = choose([str(tmp_path)], **settings, source="kind", group="family")
    assert (safe.source, safe.group) == ("1", "f")
    assert (unsafe.source, unsafe.group) == ("2", "b"), "a document without a group is one"
    [safe], _, _ = choose([str(tmp_path)], **settings, source="none", group="none")
    assert (safe.source, safe.group) == (None, "a")


def test_choose_documents_leaves_out_rows_held_out_by_split(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b", "c", "d", "e"], "text": ["x"] * 5, "label": [0, 0, 0, 5, 5],
            "split": ["train", "heldout", None, "heldout", "train"],
        }
    )  # fmt: skip
    dataset.write_table(table, str(tmp_path / "rows.parquet"))
    settings: dict[str, Any] = {"safe_up_to": 1, "unsafe_from": 4, "limit": 9, "seed": 0}
    for heldout, expected in ((True, ["a", "b", "c", "d", "e"]), (False, ["a", "c", "e"])):
        safe, unsafe, _ = choose([str(tmp_path)], **settings, heldout=heldout)
        assert sorted(document.id for document in [*safe, *unsafe]) == expected
    table = pa.table({"id": ["a", "b"], "text": ["y", "y"], "label": [5, 0], "split": ["heldout", "train"]})
    dataset.write_table(table, str(tmp_path / "first" / "rows.parquet"))
    safe, unsafe, _ = choose(
        [str(tmp_path / "first"), str(tmp_path / "rows.parquet")], **settings, heldout=False
    )
    assert {d.id: d.text for d in [*safe, *unsafe]} == {"a": "x", "b": "y", "c": "x", "e": "x"}


def test_evaluate_beginnings_take_first_words_of_longer_documents() -> None:
    texts = ["  one two\nthree   four five", "one two three", "one two\nthree five", "a b\tc d", "x y z w"]
    documents = [Document(str(n), text, True, group=f"g{n}") for n, text in enumerate(texts)]
    sample = beginnings(documents, words=3, limit=2)
    assert [(p.id, p.text, p.group) for p in sample.prompts] == [
        ("0", "one two\nthree", "g0"), ("3", "a b\tc", "g3"),
    ]  # fmt: skip
    assert {(p.prompt_set, p.kind) for p in sample.prompts} == {("documents", "harmful")}
    assert sample.left_out == {"too_short": 1, "repeated": 1, "excluded": 0, "not_sampled": 1}
    assert [p.text for p in beginnings(documents, words=1, limit=0).prompts] == ["one", "a", "x"]
    [harmless] = beginnings([Document("s", "a b", False)], words=1, limit=0).prompts
    assert (harmless.kind, harmless.group) == ("harmless", "s")
    after = beginnings(documents, words=1, limit=1, skip=1)
    assert [p.text for p in after.prompts] == ["a"]
    assert after.left_out == {"too_short": 0, "repeated": 2, "excluded": 0, "not_sampled": 2}
    more = beginnings(documents, words=1, limit=1, others=7)
    assert more.left_out["not_sampled"] == 7 + 2, "documents that were not sampled count"
    with pytest.raises(UserError, match="skip_prompts=3: all 3 harmful prompts of 'documents' are skipped"):
        beginnings(documents, words=1, limit=1, skip=3)
    pair = [
        Document("a", "a lewd tale of minors again", True),
        Document("b", "a quiet tale of lakes again", True),
    ]
    allowed = beginnings(pair, words=5, limit=0)
    assert ([p.id for p in allowed.prompts], allowed.left_out["excluded"]) == (["b"], 1)
    with pytest.raises(UserError, match=r"none of the 5 unsafe .* more than prompt_words=9"):
        beginnings(documents, words=9, limit=2)


def test_choose_documents_reads_first_row_with_a_level(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "a", "b"], "text": ["no level", "unsafe", "safe"], "label": [None, 5, 0]})
    dataset.write_table(table, str(tmp_path / "rows.parquet"))
    safe, unsafe, _ = choose([str(tmp_path)], safe_up_to=1, unsafe_from=4, limit=9, seed=0)
    assert [document.text for document in (*safe, *unsafe)] == ["safe", "unsafe"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", None], "label": [0, 5]}, "has a document without an id"),
        (
            {"id": ["a", "b"], "label": ["safe", "5"]},
            "the column 'label' must be numbers from 0 to 5, not string",
        ),
    ],
)
def test_choose_documents_rejects_invalid_columns(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    dataset.write_table(pa.table({**columns, "text": ["x", "y"]}), str(tmp_path / "rows.parquet"))
    with pytest.raises(UserError, match=message):
        choose([str(tmp_path)], safe_up_to=1, unsafe_from=4, limit=9, seed=0)
