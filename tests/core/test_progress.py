"""The progress line of a stage."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pytest

from safety_ray.core import cluster, progress
from safety_ray.core.cost import VARIABLE
from safety_ray.core.dataset import write_table


def test_row_counter_reports_rows_rejected_share_and_token_rate(tmp_path: Path) -> None:
    counter = progress.RowCounter(str(tmp_path))
    assert counter() == progress.Done(0)
    rows = pa.table({"id": list("abc"), "reply_tokens": [10, None, 20], "reply_seconds": [1.0, None, 2.0]})
    write_table(rows, str(tmp_path / "data" / "a.parquet"))
    assert [counter()[0], counter()[0]] == [3, 3]
    assert re.fullmatch(r"[\d,]+ tokens/s", counter().note)
    assert counter().tokens == 30
    write_table(rows.slice(0, 1), str(tmp_path / "rejected" / "b.parquet"))
    done = counter()
    assert (done.rows, done.rejected) == (4, 1)
    assert done.note.startswith("25% rejected, ")
    # Later stages keep the tokens that a row took; they write none themselves.
    later = progress.RowCounter(str(tmp_path / "later"))
    write_table(rows.drop_columns(["reply_seconds"]), str(tmp_path / "later" / "c.parquet"))
    assert later() == progress.Done(3)


def test_progress_line_reports_elapsed_and_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    line = progress.Line("rewrite", 200)
    line.first, line.start = 0, line.start - 60
    line.show(50, "3% rejected", final=True)
    assert re.search(
        r"rewrite +█{6}░{18} 50/200 rows  1:0\d, 3:\d\d left, 0.8\d? rows/s 3% rejected",
        capsys.readouterr().out,
    )


def test_progress_line_rate_excludes_rows_of_interrupted_run(capsys: pytest.CaptureFixture[str]) -> None:
    line = progress.Line("score", 1000)
    line.show(400)
    line.start -= 10
    line.show(600, final=True)
    # 200 rows in at least 10 s, so 400 more take 20 s or more.
    assert re.search(r"600/1,000 rows  0:1\d, 0:[23]\d left, \d\d rows/s\n", capsys.readouterr().out)


def test_progress_line_shows_cost_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"CPU={3600 / (os.cpu_count() or 1)}")  # 1 a second
    monkeypatch.setattr(cluster, "resources", dict)  # another test may have started a cluster
    line = progress.Line("fit", 10, "texts")
    line.cost._last -= 100
    line.show(10, final=True)
    assert re.search(r"10/10 texts  0:00, cost 10\d\.\d\d\n", capsys.readouterr().out)


def test_progress_line_rate_counts_repeated_steps(capsys: pytest.CaptureFixture[str]) -> None:
    line = progress.Line("train", 300)
    line.show(110)  # the log of the interrupted run
    line.start -= 10
    line.show(100, final=True)  # its last checkpoint
    line.show(120, final=True)
    resumed, repeated = capsys.readouterr().out.splitlines()[1:]
    assert "left" not in resumed
    assert re.search(r"120/300 rows  0:1\d, 1:\d\d left, \d(\.\d)? rows/s", repeated)


def test_progress_line_reports_wait_until_first_row(capsys: pytest.CaptureFixture[str]) -> None:
    line = progress.Line("score", 700, waiting="loading the model")
    line.show(0)
    line.show(0)  # too soon after the last print
    line.printed = None
    line.show(1)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"  score      {'░' * 24} 0/700 rows  0:00 loading the model"
    assert second.endswith(" 1/700 rows  0:00")
    line.show(0, final=True)
    assert capsys.readouterr().out.endswith("0/700 rows  0:00\n")


def test_watch_prints_wait_at_start_and_count_at_end(capsys: pytest.CaptureFixture[str]) -> None:
    counts = iter([progress.Done(0), progress.Done(3)])
    last = progress.Done(3)
    with progress.watch("ingest", None, lambda: next(counts, last)):
        pass
    assert capsys.readouterr().out.splitlines() == [
        "  ingest     0 rows  0:00 starting workers",
        "  ingest     3 rows  0:00",
    ]
