"""The comparison of benchmarks/chaos notices a lost row, a changed row, a changed loss and repeated rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.chaos.outputs import contents, differences, repeated
from safety_ray.core import dataset


def write_run(folder: Path, texts: list[str], losses: list[float], shift: float = 0.0) -> Path:
    probs = [[0.5 + shift, 0.5 - shift]] * len(texts)
    rows = pa.table({"id": [f"d{n}" for n in range(len(texts))], "text": texts, "probs": probs})
    for n in range(2):  # other files and another order than in the other run do not matter
        dataset.write_table(
            rows.take(list(range(n, len(rows), 2))), str(folder / "score/data" / f"{n}.parquet")
        )
    values = {"rows_in": 3, "rows_out": len(texts), "seconds": len(texts) * 1.5}
    (folder / "score" / "record.json").write_text(json.dumps(values))
    (folder / "pretrain").mkdir()
    lines = [json.dumps({"step": n, "loss": loss}) for n, loss in enumerate(losses)]
    (folder / "pretrain" / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def test_differences_name_what_changed(tmp_path: Path) -> None:
    whole = contents(write_run(tmp_path / "whole", ["a", "b", "c"], [2.0, 1.0]))
    same = contents(write_run(tmp_path / "same", ["a", "b", "c"], [2.0, 1.0]))
    assert differences(whole, same) == (0, [])
    rounded = contents(write_run(tmp_path / "rounded", ["a", "b", "c"], [2.0, 1.0], shift=1e-6))
    assert differences(whole, rounded) == (0, [])
    shifted = contents(write_run(tmp_path / "shifted", ["a", "b", "c"], [2.0, 1.0], shift=0.1))
    assert differences(whole, shifted) == (0, ["score: rows"])
    lost = contents(write_run(tmp_path / "lost", ["a", "b"], [2.0, 1.0]))
    assert differences(whole, lost) == (1, ["score: counts", "score: rows"])
    changed = contents(write_run(tmp_path / "changed", ["a", "b", "x"], [2.0, 1.1]))
    assert differences(whole, changed) == (1, ["pretrain: losses", "score: rows"])


def test_repeated_counts_rows_by_stage(tmp_path: Path) -> None:
    (tmp_path / "score-1").write_text("d0\nd1\n")
    (tmp_path / "score-2").write_text("d1\nd2\nd")  # the last line was interrupted
    (tmp_path / "pack-1").write_text("d1\n")
    assert repeated(tmp_path, ["score", "pack"]) == (1, 4)
    with pytest.raises(ValueError, match="no rows of ingest"):
        repeated(tmp_path, ["ingest", "score"])
