"""Same text, one score: what occurs more than once is scored once, across files, blocks and broken runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from endpoint import Endpoint, completion

from safety_ray import dataset
from safety_ray.config import from_dict
from safety_ray.score import stage_pool
from safety_ray.score.classifier import Classifier
from safety_ray.score.repeats import Repeats, fingerprints, repeated
from safety_ray.score.stage import ScoreConfig, run
from safety_ray.score.stage_pool import ScoreBatch


def rows(number: int, distinct: int, seed: int) -> pa.Table:
    drawn = np.random.default_rng(seed).integers(0, distinct, number)
    texts = [f"Text {i}: {'a quiet soup recipe' if i % 2 else 'I will hurt you all'}." for i in drawn]
    return pa.table({"id": [f"d{n:03}" for n in range(number)], "text": texts, "place": list(range(number))})


@pytest.mark.parametrize("blocks", [1, 7])
def test_repeats_are_those_that_counting_finds(blocks: int) -> None:
    table = rows(200, 90, seed=3)
    marks = fingerprints(table)
    keys = np.array(marks.column("key").to_pylist())
    parts = [marks.filter(pa.array([int(k, 16) % blocks == b for k in keys])) for b in range(blocks)]
    found = Repeats.of([repeated(part) for part in parts])
    counts = Counter(table.column("text").to_pylist())
    assert len(found.keys) == sum(n > 1 for n in counts.values())
    assert found.copies == sum(n - 1 for n in counts.values())
    # Whatever the blocks: one row of each text is scored, and all others are its copies.
    cut = [table.slice(n, 30) for n in range(0, 200, 30)]
    scored = pa.concat_tables([found.split(part, copies=False) for part in cut])
    copies = pa.concat_tables([found.split(part, copies=True) for part in cut])
    assert sorted(scored.column("text").to_pylist()) == sorted(counts)
    assert sorted([*scored.column("id").to_pylist(), *copies.column("id").to_pylist()]) == sorted(
        table.column("id").to_pylist()
    )
    # Every copy gets what its text was given.
    lengths = [len(text) * 7 for text in scored.column("text").to_pylist()]
    given = scored.select(["id", "text"]).append_column("score", pa.array(lengths))
    owned = [found.owned(given.slice(n, 11)).drop_columns(["text"]) for n in range(0, len(given), 11)]
    filled = found.fill(copies, found.arrange(owned, "here"))
    assert [len(t) * 7 for t in filled.column("text").to_pylist()] == filled.column("score").to_pylist()


def test_a_score_that_is_missing_is_no_silent_loss() -> None:
    table = pa.table({"id": ["a", "b"], "text": ["same", "same"]})
    found = Repeats.of([repeated(fingerprints(table))])
    with pytest.raises(RuntimeError, match=r"here: a text that occurs more than once has no score"):
        found.arrange([], "here")


def watched(folder: Path, poison: list[str]) -> type:
    """The stage's actor, which notes each text that reaches its classifier, and fails at `poison`."""
    folder.mkdir(exist_ok=True)

    class Watched(ScoreBatch):
        def __call__(self, batch: pa.Table) -> pa.Table:
            texts, ids = (batch.column(name).to_pylist() for name in ("text", "id"))
            if poison and (folder / "go").exists() and set(poison) & set(texts):
                raise ValueError("the machine is gone")
            (folder / f"{ids[0]}.json").write_text(json.dumps(texts))
            (folder / "go").touch()
            return super().__call__(batch)

    return Watched


def test_each_text_is_scored_once_across_files_and_a_broken_run(
    tmp_path: Path, ray_cluster: None, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(120, 50, seed=5)
    for n in range(3):
        dataset.write_table(table.slice(n * 40, 40), str(tmp_path / "in" / f"{n}.parquet"))
    texts = table.column("text").to_pylist()
    once = sorted(set(texts))
    config = ScoreConfig(
        documents=str(tmp_path / "in"), classifier=str(classifier), output=str(tmp_path / "out"),
        batch_rows=8, write_rows=8,
    )  # fmt: skip
    last = table.filter(pa.array([n >= 80 for n in range(120)])).column("text").to_pylist()[-1]
    monkeypatch.setattr(stage_pool, "ScoreBatch", watched(tmp_path / "broken", [last]))
    with pytest.raises(Exception, match="the machine is gone"):
        run(config)
    monkeypatch.setattr(stage_pool, "ScoreBatch", watched(tmp_path / "seen", []))
    record = run(config)
    assert (record["rows_in"], record["rows_out"], record["set_aside"]) == (120, 120, 0)
    assert (record["scored_texts"], record["copies"]) == (len(once), 120 - len(once))
    seen = [t for f in (tmp_path / "seen").glob("*.json") for t in json.loads(f.read_text())]
    assert len(seen) == len(set(seen)), "no text went through the model twice"
    assert set(seen) <= set(once)
    written_before = len(once) - len(seen)
    assert written_before > 0, "what the broken run had written is not scored again"
    found = dataset.table(str(tmp_path / "out"))
    assert found.column("id").to_pylist() == table.column("id").to_pylist()
    assert found.select(["text", "place"]).to_pylist() == table.select(["text", "place"]).to_pylist()
    by_text: dict[str, set[str]] = {}
    for row in found.to_pylist():
        by_text.setdefault(row["text"], set()).add(json.dumps([row["score"], row["probs"]]))
    assert all(len(values) == 1 for values in by_text.values())
    expected = Classifier.load(classifier).predict(texts)
    assert found.column("score").to_pylist() == [p.score for p in expected]


def test_copies_cost_no_request_and_share_the_fate_of_their_text(tmp_path: Path, ray_cluster: None) -> None:
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
            "scorers": "judge", "judge": judge, "max_set_aside": 0.5,
        }  # fmt: skip
        record = run(from_dict(ScoreConfig, values))
        asked = [r for r in endpoint.requests if r["path"].endswith("/chat/completions")]
    assert len(asked) == 4, "three texts, and the one that gave no judgement once more"
    assert (record["rows_out"], record["set_aside"]) == (20, 10)
    assert (record["scored_texts"], record["copies"]) == (3, 27)
    assert record["judge"] == "openai:m"
    found = dataset.table(str(tmp_path / "out")).to_pylist()
    assert {(r["text"], r["score"], r["judge_reason"]) for r in found} == {
        ("calm", 0, "so it is"), ("harsh", 4, "so it is"),
    }  # fmt: skip
    aside = pa.concat_tables(
        [dataset.table(str(f)) for f in (tmp_path / "out" / "set_aside").rglob("*.parquet")],
        promote_options="permissive",
    ).to_pylist()
    assert {(r["text"], r["score"]) for r in aside} == {("broken", None)}
