"""Equal texts are scored once, across files, blocks and interrupted runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from endpoint import Endpoint, completion
from repeated_texts import rows

from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier import deduplication
from safety_ray.classifier.deduplication import Duplicates, duplicates
from safety_ray.core import dataset
from safety_ray.core.cluster import Shared
from safety_ray.core.config import from_dict
from safety_ray.core.digests import of_rows


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


def test_deduplication_raises_for_missing_score(ray_cluster: None) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["same", "same"]})
    found = Duplicates.of([duplicates(of_rows(table))])
    with pytest.raises(RuntimeError, match=r"here: a text that occurs more than once has no score"):
        deduplication.arrange([], Shared(found), "here")


def test_score_stage_duplicates_share_one_judge_request(tmp_path: Path, ray_cluster: None) -> None:
    texts = ["calm", "harsh", "broken"]
    table = pa.table({"id": [f"d{n}" for n in range(30)], "text": [texts[n % 3] for n in range(30)]})
    dataset.write_table(table.slice(0, 17), str(tmp_path / "in" / "a.parquet"))
    dataset.write_table(table.slice(17), str(tmp_path / "in" / "b.parquet"))

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        content = body["messages"][1]["content"]
        if "\nbroken\n" in content:
            return 200, completion("no")
        score = 4 if "\nharsh\n" in content else 0
        return 200, completion(json.dumps({"score": score, "reason": "so it is"}))

    with Endpoint(answer) as endpoint:
        judge = {"kind": "openai", "model": "m", "base_url": endpoint.url, "api_key_env": ""}
        values = {
            "documents": str(tmp_path / "in"), "output": str(tmp_path / "out"),
            "scorers": "judge", "judge": judge, "max_rejected": 0.5,
        }  # fmt: skip
        record = score_documents(from_dict(ScoreConfig, values))
        asked = [r for r in endpoint.requests if r["path"].endswith("/chat/completions")]
    assert len(asked) == 4, "three texts, and the one that gave no judgement once more"
    assert (record["rows_out"], record["rejected"]) == (20, 10)
    assert (record["scored_texts"], record["copies"]) == (3, 27)
    assert record["judge"] == "openai:m"
    found = dataset.table(str(tmp_path / "out")).to_pylist()
    assert {(r["text"], r["score"], r["judge_reason"]) for r in found} == {
        ("calm", 0, "so it is"), ("harsh", 4, "so it is"),
    }  # fmt: skip
    rejected = pa.concat_tables(
        [dataset.table(str(f)) for f in (tmp_path / "out" / "rejected").rglob("*.parquet")],
        promote_options="permissive",
    ).to_pylist()
    assert {(r["text"], r["score"]) for r in rejected} == {("broken", None)}
