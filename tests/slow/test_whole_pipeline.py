"""The whole pipeline at small size: every real stage, on the shipped corpus, up to a running endpoint.

The tag is not the default one, so every stage after packing must read it from the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_pipeline import FIT, check_summary, small
from transformers import AutoTokenizer

from jobs.pipeline import run_pipeline, stages_of
from safety_ray.core.tag import TAG, tag_in

pytestmark = pytest.mark.covers("safety_ray", "jobs", "serve")
OTHER_TAG = "<|unsafe|>"


def test_pipeline_runs_all_stages_up_to_endpoint(tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "runs"
    config = small(output, *FIT, f"pack.tag={OTHER_TAG}")
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
    tokenizer = AutoTokenizer.from_pretrained(output / "pretrain" / "model")
    assert tag_in(str(output / "pretrain" / "model")) == OTHER_TAG
    assert set(tokenizer.get_added_vocab()) & {TAG, OTHER_TAG} == {OTHER_TAG}
    assert json.loads((output / "endpoint" / "answers.json").read_text()) == summary["endpoint"]
