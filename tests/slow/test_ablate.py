"""A small ablation on a real cluster: a second run does nothing, and a deleted evaluation is redone alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.ablate import AblateConfig, run_ablation
from safety_ray.core import dataset
from safety_ray.core.config import from_dict

ROOT = Path(__file__).parents[2]
DECODERS = ("beam", "safebeam")
pytestmark = pytest.mark.covers("jobs.ablate", "safety_ray.evaluate")


def write_documents(path: Path, corpus: Path) -> str:
    """Write the shipped corpus with its labels as scores."""
    table = dataset.table(str(corpus), ["id", "text", "label"])
    scores = table.column("label").cast(pa.int64())
    dataset.write_table(table.append_column("score", scores), str(path / "rows.parquet"))
    return str(path)


def test_ablation_runs_skips_and_redoes_one_evaluation(
    tmp_path: Path, corpus: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scored").mkdir()
    output = tmp_path / "out"
    config = from_dict(AblateConfig, {
        "output": str(output),
        "arms": {
            "raw": {"pack": {"tag_rate": 0}, "safety": {"tagged_share": 0}},
            "tags": {},
            "tags-late": {"pretrained": "raw"},
        },
        "pack": {
            "scored": write_documents(tmp_path / "scored", corpus), "row_length": 128, "vocab_size": 512,
            "heldout_share": 0.2, "shards": 1,
        },
        "pretrain": {
            "max_steps": 3, "batch_rows": 4, "workers": 1,
            "model": {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate_size": 64},
        },
        "safety": {
            "chats": str(ROOT / "examples" / "chats.jsonl"), "max_steps": 2, "batch_rows": 4, "workers": 1,
            "tagged_share": 0.5,
        },
        "benign": {
            "chats": str(ROOT / "examples" / "chats.jsonl"), "max_steps": 1, "batch_rows": 4, "workers": 1,
            "tagged_share": 0,
        },
        "evaluate": {
            "max_documents": 10, "max_prompts": 4, "max_new_tokens": 4, "prompt_words": 5, "workers": 1,
            "resamples": 200,
        },
    })  # fmt: skip
    values = run_ablation(config)
    rates = {(x["arm"], x["stage"], x["decoder"]) for x in values["rates"] if x["judge"] == "harm_classifier"}
    assert rates == {
        *(("raw", stage, "beam") for stage in ("base", "safety", "benign")),
        *(("tags", stage, decoder) for stage in ("base", "safety", "benign") for decoder in DECODERS),
        *(("tags-late", stage, decoder) for stage in ("safety", "benign") for decoder in DECODERS),
    }
    assert {(x["arm"], x["stage"]) for x in values["models"] if "p_tag_auroc" in x} == {
        (arm, stage) for arm, stage, decoder in rates if decoder == "safebeam"
    }
    assert json.loads((output / "metrics.json").read_text()) == values
    assert {path.name for path in output.iterdir()} == {
        "raw", "tags", "tags-late", "README.md", "metrics.json", "arms.png", "safe-beam.png",
    }  # fmt: skip

    def written() -> dict[str, int]:
        return {str(p.relative_to(output)): p.stat().st_mtime_ns for p in output.glob("*/*/*/record.json")}

    before = written()
    assert len(before) == 18
    capsys.readouterr()
    assert run_ablation(config) == values
    assert written() == before
    assert capsys.readouterr().out.count("finished earlier, skipped") == 18

    shutil.rmtree(output / "tags" / "seed-0" / "evaluate-base")
    assert run_ablation(config) == values
    changed = {name for name, time in written().items() if before.get(name) != time}
    assert changed == {"tags/seed-0/evaluate-base/record.json"}
