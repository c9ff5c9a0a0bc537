"""The notebook's code cells run without a display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from example import EXAMPLES

import safety_ray

NOTEBOOK = EXAMPLES / "report_card.ipynb"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    originals = [
        {"id": "a", "score": 0, "text": "a page about soup and bread"},
        {"id": "b", "score": 5, "text": "hate speech after hate speech"},
    ]
    rewritten = [
        {
            "id": "b/r",
            "source_id": "b",
            "recipe": "refuse",
            "source_score": 5,
            "score": 1,
            "text": "I will not write hate speech",
        }
    ]
    tables = pa.Table.from_pylist(originals), pa.Table.from_pylist(rewritten)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(safety_ray.build_report_card(*tables, title="A small card")))
    return path


def test_report_card_notebook_runs_headless(
    card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPORT_CARD", str(card))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(EXAMPLES)
    notebook = json.loads(NOTEBOOK.read_text())
    namespace: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    output = capsys.readouterr().out
    assert "A small card" in output
    assert "all: 2 documents, 11 words\nkept: 1 documents, 6 words\nrewritten: 1 documents" in output
    assert "before: 2 documents" in output
    assert "share_score_0 before: 0.5 (0.01258 to 0.9874), 1 hits" in output
    assert " %" not in output, "fewer than ten hits"
    assert "after: 2 documents" in output
    bars = namespace["score_figure"].axes[0].patches
    assert [bar.get_height() for bar in bars] == [50, 0, 0, 0, 0, 50, 50, 50, 0, 0, 0, 0]
    assert len(namespace["category_figure"].axes[0].patches) == 2 * len(namespace["card"]["categories"])


def test_report_card_notebook_has_no_stored_output() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)
