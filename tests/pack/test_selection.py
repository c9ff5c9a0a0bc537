"""Selection of the documents to train on, and the roots of rewritten documents."""

from __future__ import annotations

import pyarrow as pa
import pytest

from safety_ray.core.errors import UserError
from safety_ray.core.records import RECIPES
from safety_ray.pack.heldout import Hashes, hashes_of, sort_hashes
from safety_ray.pack.selection import Selection, select_raw, select_rewritten, trace_roots


def selection(**more: object) -> Selection:
    base = {"seed": 0, "raw_scores": frozenset(range(6)), "recipes": frozenset(RECIPES)}
    return Selection(**{**base, "tag_from": 3, "heldout_share": 0.0, **more})  # type: ignore[arg-type]


def links(*pairs: str | None) -> pa.Table:
    """Return rewritten rows: id, source_id, id, source_id, ..."""
    return pa.table({"id": pa.array(pairs[::2]), "source_id": pa.array(pairs[1::2], pa.string())})


def scored(*scores: int | None) -> pa.Table:
    return pa.table(
        {
            "id": [f"d{n}" for n in range(len(scores))],
            "text": ["t"] * len(scores),
            "score": pa.array(scores, pa.int8()),
        }
    )


def split_out(*ids: str) -> Hashes:
    """Return the hashes of web documents that a column `split` holds out."""
    batch = pa.table({"id": [*ids, "another"], "split": ["heldout"] * len(ids) + ["train"]})
    return sort_hashes([hashes_of(batch, 0)])


def test_select_raw_assigns_use_and_unsafe_by_score() -> None:
    rows = select_raw(scored(0, 2, 3, 5, None, 9), selection(raw_scores=frozenset({0, 3, 5}))).to_pylist()
    assert [r["use"] for r in rows[:4]] == ["train", "unselected", "train", "train"]
    assert [r["unsafe"] for r in rows] == [False, False, True, True, False, False]
    assert [r["text"] for r in rows] == ["t", None, "t", "t", "t", "t"]
    assert [r["rejected_reason"] for r in rows[3:]] == [
        None,
        "its score is None, not 0-5",
        "its score is 9, not 0-5",
    ]


def test_select_raw_rejects_documents_without_text() -> None:
    batch = pa.table({"id": ["a", "b"], "text": pa.array([None, ""], pa.string()), "score": [0, 0]})
    assert [r["rejected_reason"] for r in select_raw(batch, selection()).to_pylist()] == [
        "it has no text"
    ] * 2


def test_trace_roots_follows_source_chain() -> None:
    tables = [links("m1", "r1", "m2", "m1"), links("r1", "d1", "p3", "d3", "same", "same")]
    rows = pa.concat_tables([*tables, links("other", None)])
    for roots in (trace_roots(tables, "x"), trace_roots(tables[::-1], "x")):
        assert roots.find(rows) == ["d1", "d1", "d1", "d3", "same", None]
    assert len(roots.ids) == 2
    assert trace_roots([], "x").find(rows) == ["r1", "m1", "d1", "d3", "same", None]


def test_trace_roots_raises_user_error_for_cycle() -> None:
    with pytest.raises(UserError, match=r"x: the source_id of 'a' leads .* cycle"):
        trace_roots([links("a", "b"), links("b", "a")], "x")


def test_select_rewritten_inherits_heldout_from_root() -> None:
    batch = pa.table(
        {
            "id": ["r1", "m1", "p2", "p3", "p4", "p5"],
            "text": ["t"] * 6,
            "source_id": ["d1", "r1", "d2", "d3", "d4", None],
            "recipe": ["refuse", "moralize", "rephrase", "refuse", "shorten", "refuse"],
        }
    )
    rows = select_rewritten(
        batch,
        selection(
            heldout=split_out("d1"),
            roots=trace_roots([links("m1", "r1", "r1", "d1")], "x"),
            recipes=frozenset({"rephrase"}),
        ),
    ).to_pylist()
    assert [r["use"] for r in rows[:4]] == ["heldout", "heldout", "train", "unselected"]
    assert [r["source_id"] for r in rows] == ["d1", "d1", "d2", "d3", "d4", None]
    assert not any(r["unsafe"] for r in rows)
    assert "'shorten'" in rows[4]["rejected_reason"]
    assert "made from" in rows[5]["rejected_reason"]


def test_select_rewritten_uses_root_id_column() -> None:
    batch = pa.table(
        {"id": ["m"], "text": ["t"], "source_id": ["r"], "recipe": ["moralize"], "root_id": ["d1"]}
    )
    [row] = select_rewritten(batch, selection(heldout=split_out("d1"))).to_pylist()
    assert (row["use"], row["source_id"]) == ("heldout", "d1")
