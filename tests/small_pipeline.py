"""A pipeline small enough for tests, and checks of its summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.pipeline import PipelineConfig
from safety_ray.core.config import load

DEMO = "configs/pipeline/demo.yaml"
FIT = ["fit.windows=0", "fit.per_family=1"]
SMALL = [
    "pack.vocab_size=1024", "pack.row_length=128",
    "pretrain.model.hidden_size=64", "pretrain.model.layers=2", "pretrain.model.heads=2",
    "pretrain.model.kv_heads=2", "pretrain.model.intermediate_size=128", "pretrain.max_steps=40",
    "evaluate.max_documents=40", "evaluate.max_prompts=6", "evaluate.max_new_tokens=8",
    "endpoint.max_tokens=8",
]  # fmt: skip


def small(output: Path, *words: str) -> PipelineConfig:
    return load(PipelineConfig, [DEMO, f"output={output}", "corpus.documents=560", *SMALL, *words])


def check_summary(output: Path, names: list[str], documents: int) -> dict[str, Any]:
    """Check that a finished run of stages `names` on `documents` lost no row, and return its summary."""
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text())
    stages = {row["name"]: row for row in summary["stages"]}
    assert list(stages) == names
    assert stages["ingest"]["rows_out"] == documents
    assert stages["score"]["rows_in"] == stages["score"]["rows_out"] == documents
    rewrite = stages["rewrite"]
    assert rewrite["rows_in"] == rewrite["rows_out"] + rewrite["rejected"] > 40
    for name in names:
        record = json.loads((output / name / "record.json").read_text())
        assert record["config"]["output"].endswith(name)
        assert record["versions"]["ray"]
    return summary
