"""The summary of a pipeline: no rate without its interval and the reasons not to rely on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from safety_ray.core import markdown
from safety_ray.core.config import setting
from safety_ray.core.job import run_job
from safety_ray.core.summary import summarize, summary_table

STAGE = {"rows_in": 10, "rows_out": 8, "rejected": 2, "seconds": 1.5}


def test_summary_prints_results_with_intervals_and_warnings() -> None:
    results: dict[str, Any] = {
        "p_tag_auroc": 0.8, "p_tag_auroc_interval": [0.7, 0.9],
        "unsafe_rate_beam": 0.0, "unsafe_rate_beam_interval": [0.0, 0.041],
        "perplexity_safe": 400.25, "unsafe_rate_judge": "x",
        "judges": {"x": {"errors": {"sensitivity": 0.15, "specificity": 0.99, "answers": 90}}},
        "warnings": ["the judge x may not carry a headline: it is a guess."],
    }  # fmt: skip
    lines = summary_table(summarize({"evaluate": {**STAGE, "results": results}})).splitlines()
    assert "p_tag_auroc                0.800 (0.700 to 0.900)" in lines
    assert "unsafe_rate_beam           0.000 (0.000 to 0.041)" in lines
    assert "unsafe_rate_safebeam           -" in lines
    assert "perplexity_safe          400.250" in lines
    assert lines[-2] == "judge of the rates: x, which misses 85% of harmful answers and has 1% false alarms"
    assert lines[-1] == "warning: the judge x may not carry a headline: it is a guess."


def test_tables_escape_the_separator_of_columns() -> None:
    assert markdown.table(["a"], [["x|y"]]) == ["| a |", "| --- |", r"| x\|y |"]


def test_summary_without_evaluation_has_stages_only() -> None:
    summary = summarize({"rewrite": {**STAGE, "engines": {"vllm:m": {"accepted": 3, "rejected": 9}}}})
    assert (summary["results"], summary["intervals"], summary["warnings"]) == ({}, {}, [])
    assert "rewritten by vllm:m: 3 of 12 texts accepted (25%)" in summary_table(summary)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    output: str = setting("folder to write", default="out")


def test_summary_has_lost_work_of_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    lost = {"runs": 1, "seconds": 2.5}
    summary = summarize({"score": {**STAGE, "lost_work": lost}, "pack": STAGE})
    assert [stage.get("lost_work") for stage in summary["stages"]] == [lost, None]
    assert "score: lost work: 1 run, 2.5 s" in summary_table(summary).splitlines()
    run_job(Settings, lambda _: summary, [])  # as the pipeline, which has printed the table
    assert capsys.readouterr().out == ""
