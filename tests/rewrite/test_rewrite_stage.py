"""The rewriting stage with real Ray and a real classifier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from rewrite_runs import ByModel, check_every_document, check_kept_rows, rows_of

from jobs.rewrite import RewriteConfig, rewrite_documents
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN
from safety_ray.llm.engine import EngineConfig


def test_rewrite_stage_rewrites_or_rejects_every_document(
    documents_by_a_model: ByModel, scored: Path
) -> None:
    config, record, _ = documents_by_a_model
    check_every_document(config, record, scored)


def test_rewrite_stage_kept_rows_are_safer_and_traceable(
    documents_by_a_model: ByModel, scored: Path, classifier: Path
) -> None:
    check_kept_rows(documents_by_a_model[0], scored, classifier)


def test_rewrite_stage_skips_finished_run(documents_by_a_model: ByModel) -> None:
    config, record, requests = documents_by_a_model
    before = len(requests)
    assert rewrite_documents(config) == record
    assert len(requests) == before


def test_rewrite_stage_writes_empty_dataset_for_safe_input(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    table = pads.dataset(scored, format="parquet").to_table()
    dataset.write_table(table.filter(pads.field("score") == 0), str(tmp_path / "safe" / "part.parquet"))
    config = RewriteConfig(
        scored=str(tmp_path / "safe"),
        classifier=str(classifier),
        output=str(tmp_path / "out"),
        engine=EngineConfig(kind="template"),
    )
    assert rewrite_documents(config)["rows_in"] == 0
    assert len(dataset.table(config.output)) == 0
    assert {c.name for c in REWRITTEN} <= set(dataset.columns(config.output))


def test_rewrite_stage_needs_only_id_text_and_score(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    """Scores may be labels of people, without a classifier's probabilities."""
    table = pads.dataset(scored, format="parquet").to_table(columns=["id", "text", "score"])
    dataset.write_table(
        table.filter(pads.field("score") == 2).slice(0, 3), str(tmp_path / "labelled" / "part.parquet")
    )
    config = RewriteConfig(
        scored=str(tmp_path / "labelled"), classifier=str(classifier), output=str(tmp_path / "out"),
        max_rejected=1.0, engine=EngineConfig(kind="template"),
    )  # fmt: skip
    assert rewrite_documents(config)["rows_in"] == 3


def test_rewrite_stage_retries_document_that_is_long_by_its_white_space(
    tmp_path: Path, classifier: Path, ray_cluster: None
) -> None:
    texts = ["Some words about a harmful thing. " * 5 + "\n" * 60, "\n" * 60 + "More words about it. " * 9]
    rows = pa.table({"id": ["a", "b"], "text": texts, "score": pa.array([2, 2], pa.int8())})
    dataset.write_table(rows, str(tmp_path / "scored" / "part.parquet"))
    values = {
        "scored": str(tmp_path / "scored"), "classifier": str(classifier), "output": str(tmp_path / "out"),
        "max_chars": 200, "attempts": 2, "max_rejected": 1.0, "accept": {"margin": 5},
        "engine": {"kind": "template"},
    }  # fmt: skip
    record = rewrite_documents(from_dict(RewriteConfig, values))
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (2, 0, 2)
    assert [row["attempt"] for row in rows_of(str(tmp_path / "out"), "rejected")] == [2, 2]


def test_rewrite_stage_retries_rejected_rows_with_new_prompt(
    documents_by_a_model: ByModel, scored: Path
) -> None:
    config, record, requests = documents_by_a_model
    output = config.output
    kept, rejected = rows_of(output, "data"), rows_of(output, "rejected")
    assert record["rows_in"] == len(kept) + len(rejected) == len({r["id"] for r in kept + rejected})
    assert {r["recipe"] for r in kept} == {"rephrase", "refuse"}
    assert {r["engine"] for r in kept + rejected} == {"openai:writer"}
    refusals = [r["text"] for r in kept if r["recipe"] == "refuse"]
    assert all(text.startswith("User: ") and "\n\nAssistant: " in text for text in refusals)
    assert not Path(output, "drafts").exists()
    assert not Path(output, "outcomes").exists()
    # Each rejected row of the first attempt had a second one, with another prompt and another seed.
    outcomes = record["attempts"]
    first, second = outcomes["direct"], outcomes["direct_2"]
    assert first["engine"]
    assert first["declined"]
    assert sum(second.values()) == sum(first.values()) - first["accepted"]
    assert {r["attempt"] for r in kept} == {1, 2}
    assert {r["attempt"] for r in rejected} == {2}
    by_attempt = Counter(r["attempt"] for r in kept)
    assert by_attempt[1] == first["accepted"]
    # One request was repeated after the rate limit.
    assert len(requests) == sum(sum(counts.values()) for counts in outcomes.values()) + 1
    assert len({(b["seed"], b["messages"][1]["content"]) for b in requests}) == len(requests) - 1
    sources = [r["text"] for r in rows_of(str(scored), "") if r["score"]]
    for source in sources:
        assert any(f">>>\n{source}\n<<<" in body["messages"][1]["content"] for body in requests)
    # Rejected rows keep their source and their reason, for people.
    assert {r["rejected_source"] for r in rejected} <= set(sources)
    assert "rejected_source" not in dataset.columns(output)
    assert all(r["prompt_tokens"] and r["reply_tokens"] for r in kept)
    answered = sum(sum(counts.values()) - counts.get("engine", 0) for counts in outcomes.values())
    assert record["tokens"] == {
        "prompt_tokens": 12 * answered, "reply_tokens": 5 * answered, "cached_tokens": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipes": ["rephrase", "haiku"]},
            "unknown recipe 'haiku'; choose from rephrase, refuse",
        ),
        ({"recipes": ["moralize"]}, "moralize needs refuse"),
        ({"recipes": []}, "choose from"),
        ({"rephrase_scores": [0, 1]}, "rephrase_scores"),
        ({"refuse_scores": [3, 4]}, "score 3 is in rephrase_scores and in refuse_scores"),
        ({"engine": {"kind": "vllm"}}, "engine.model"),
        ({"attempts": 0}, "attempts=0"),
        ({"engine_share": 0.5}, "engine_share=0.5 must be .* and 1 for engine.kind=template"),
        ({"engine": {"kind": "vllm", "model": "m"}, "engine_share": 0.0}, "engine_share=0.0 must be above 0"),
        (
            {"engine": {"kind": "vllm", "model": "m"}, "engine_recipes": ["haiku"]},
            "engine_recipes: unknown recipe 'haiku'",
        ),
        (
            {"engine": {"kind": "vllm", "model": "m"}, "recipes": ["rephrase"], "engine_recipes": ["refuse"]},
            "engine_recipes has none of the recipes to run",
        ),
        ({"engine_recipes": ["rephrase"]}, "engine_recipes and short_prompts need a language model"),
        ({"short_prompts": True}, "engine_recipes and short_prompts need a language model"),
        ({"max_chars": 10}, "max_chars=10"),
        ({"dry_run_rows": 1}, "dry_run_rows"),
        ({"accept": {"margin": 9}}, "accept.margin=9"),
        ({"engine": {"kind": "openai", "model": "m"}}, "engine.base_url"),
        ({"engine": {"kind": "oracle"}}, "engine"),
        ({"engine": {}}, "engine.kind: name what writes the texts: vllm, openai, or template"),
    ],
)
def test_rewrite_config_rejects_invalid_settings(change: dict[str, Any], message: str) -> None:
    required = {"scored": "a", "classifier": "b", "output": "c", "engine": {"kind": "template"}}
    with pytest.raises(UserError, match=message):
        from_dict(RewriteConfig, {**required, **change})
