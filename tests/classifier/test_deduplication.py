"""Equal texts are scored once, across files, blocks and interrupted runs."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from repeated_texts import rows

from safety_ray.classifier import deduplication
from safety_ray.classifier.deduplication import Duplicates, duplicates
from safety_ray.core.cluster import Shared
from safety_ray.core.digests import of_rows
from safety_ray.core.errors import UserError


@pytest.mark.parametrize("blocks", [1, 7])
def test_deduplication_matches_direct_count(blocks: int, ray_cluster: None) -> None:
    table = rows(200, 90, seed=3)
    marks = of_rows(table)
    keys = marks.column("text_digest").to_pylist()
    parts = [marks.filter(pa.array([k[0] % blocks == b for k in keys])) for b in range(blocks)]
    groups = [duplicates(part) for part in parts]
    found = Duplicates.of(groups)
    shared = Shared(found)
    counts = Counter(table.column("text").to_pylist())
    assert len(found.keys) == sum(n > 1 for n in counts.values())
    assert sum(sum(g.column("copies").to_pylist()) for g in groups) == sum(n - 1 for n in counts.values())
    # Whatever the blocks: one row of each text is scored, and all others are its copies.
    cut = [table.slice(n, 30) for n in range(0, 200, 30)]
    scored = pa.concat_tables([deduplication.keep(part, shared, copies=False) for part in cut])
    copies = pa.concat_tables([deduplication.keep(part, shared, copies=True) for part in cut])
    assert sorted(scored.column("text").to_pylist()) == sorted(counts)
    assert sorted([*scored.column("id").to_pylist(), *copies.column("id").to_pylist()]) == sorted(
        table.column("id").to_pylist()
    )
    # Every copy gets what its text was given.
    lengths = [len(text) * 7 for text in scored.column("text").to_pylist()]
    given = scored.select(["id", "text"]).append_column("score", pa.array(lengths))
    owned = [found.owned(given.slice(n, 11)).drop_columns(["text"]) for n in range(0, len(given), 11)]
    filled = deduplication.fill(copies, shared, Shared(deduplication.arrange(owned, shared, "here")))
    assert [len(t) * 7 for t in filled.column("text").to_pylist()] == filled.column("score").to_pylist()


def test_deduplication_refuses_repeated_row_before_scoring() -> None:
    table = pa.table({"id": ["a", "b", "a"], "text": ["same"] * 3})
    with pytest.raises(UserError, match=r"an id occurs more than once with the same text; run jobs\.ingest"):
        duplicates(of_rows(table))


def test_deduplication_raises_for_missing_score(ray_cluster: None) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["same", "same"]})
    found = Duplicates.of([duplicates(of_rows(table))])
    with pytest.raises(RuntimeError, match=r"here: a text that occurs more than once has no score"):
        deduplication.arrange([], Shared(found), "here")
