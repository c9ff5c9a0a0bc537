"""Score each distinct text once, across files and after a failed run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest
from broken_run import broken_run
from repeated_texts import rows

from jobs import score
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import dataset

pytestmark = pytest.mark.covers("jobs.score", "safety_ray.classifier", "safety_ray.core.dataset")


def watched(folder: Path, poison: list[str], output: Path) -> type:
    """Return the stage's actor class, extended to record each text that reaches its classifier.

    The actor fails at the texts `poison`, once `output` contains other rows.
    """
    folder.mkdir(exist_ok=True)

    class Watched(ScoreBatch):
        def __call__(self, batch: pa.Table) -> pa.Table:
            texts, ids = (batch.column(name).to_pylist() for name in ("text", "id"))
            if set(poison) & set(texts):
                while all(".pending." in file.name for file in output.glob("_checkpoint*/**/*.parquet")):
                    time.sleep(0.05)
                raise ValueError("the machine is gone")
            (folder / f"{ids[0]}.json").write_text(json.dumps(texts))
            return super().__call__(batch)

    return Watched


def test_score_stage_scores_each_text_once_across_restart(
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
    monkeypatch.setattr(score, "ScoreBatch", watched(tmp_path / "broken", [last], tmp_path / "out"))
    broken_run(lambda: score_documents(config), "the machine is gone")
    monkeypatch.setattr(score, "ScoreBatch", watched(tmp_path / "seen", [], tmp_path / "out"))
    record = score_documents(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (120, 120, 0)
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
