"""Counts of the record of a rewriting run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from safety_ray.core import dataset, row_files
from safety_ray.core.artifact import Artifact
from safety_ray.llm.engine import USAGE
from safety_ray.rewrite import outcomes


def test_count_tokens_is_empty_without_replies(tmp_path: Path) -> None:
    assert outcomes.count_tokens(str(tmp_path / "absent")) == {}
    dataset.mark_written(Artifact(str(tmp_path), {}, {}), "first")
    assert (tmp_path / "data" / "first" / row_files.COMPLETE).exists()
    assert outcomes.count_tokens(str(tmp_path)) == {}


def test_count_tokens_adds_replies_of_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, tokens in (("first", [10, None]), ("second", [30, 40])):
        table = pa.table({name: pa.array(tokens, pa.int64()) for name in USAGE})
        dataset.write_table(table, str(tmp_path / "data" / part / "rows.parquet"))
    assert outcomes.count_tokens(str(tmp_path)) == {"tokens": dict.fromkeys(USAGE, 80)}
    assert "80 prompt tokens (100% from the prefix cache)" in capsys.readouterr().out
