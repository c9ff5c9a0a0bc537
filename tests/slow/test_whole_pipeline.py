"""The whole pipeline at small size: every real stage, on the shipped corpus, up to a running endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_pipeline import check_summary, small

from jobs.pipeline import run_pipeline, stages_of

pytestmark = pytest.mark.covers("safety_ray", "jobs", "serve")


def test_pipeline_runs_all_stages_up_to_endpoint(tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "runs"
    config = small(output)
    run_pipeline(config)
    summary = check_summary(output, [stage.name for stage in stages_of(config)], 560)
    rewrite = next(row for row in summary["stages"] if row["name"] == "rewrite")
    assert rewrite["rows_in"] > 100
    assert set(summary["results"]) == {
        "p_tag_auroc", "unsafe_rate_beam", "unsafe_rate_safebeam", "perplexity_safe",
    }  # fmt: skip
    assert 0 <= summary["results"]["p_tag_auroc"] <= 1
    assert summary["results"]["perplexity_safe"] < 1024, "better than guessing among the vocabulary"
    assert summary["endpoint"]["plain"]["text"]
    for mode in ("stop", "safebeam"):
        assert summary["endpoint"][mode]["safety"]["mode"] == mode
    assert json.loads((output / "endpoint" / "answers.json").read_text()) == summary["endpoint"]
