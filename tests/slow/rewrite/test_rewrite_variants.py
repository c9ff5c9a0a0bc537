"""Further rewriting runs: the template engine, long documents, a judge, a dry run, an audit's threshold."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from endpoint import Endpoint, completion
from rewrite_runs import (
    SAFE,
    ByModel,
    check_every_document,
    check_kept_rows,
    check_skip_and_resume,
    rows_of,
    writer,
    written_by,
)

from jobs.audit import AuditConfig, audit_scores
from jobs.rewrite import RewriteConfig, rewrite_documents
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.llm.engine import EngineConfig

pytestmark = pytest.mark.covers("safety_ray.rewrite", "safety_ray.classifier", "safety_ray.judge")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, scored: Path, classifier: Path) -> RewriteConfig:
    return RewriteConfig(
        scored=str(scored),
        classifier=str(classifier),
        output=str(tmp_path_factory.mktemp("rewritten") / "out"),
        write_rows=16,
        actors=1,
        max_rejected=0.95,
        engine=EngineConfig(kind="template"),
    )


def test_rewrite_stage_with_template_engine(
    config: RewriteConfig, scored: Path, classifier: Path, tmp_path: Path, ray_cluster: None
) -> None:
    record = rewrite_documents(config)
    check_every_document(config, record, scored)
    check_kept_rows(config, scored, classifier)
    check_skip_and_resume(config, record, tmp_path / "copy")


def test_rewrite_stage_rewrites_by_all_recipes_with_model(
    by_a_model: ByModel, scored: Path, classifier: Path
) -> None:
    config, record, _ = by_a_model
    check_every_document(config, record, scored)
    check_kept_rows(config, scored, classifier)
    # Texts of moral education are written from the refusals of both attempts.
    first, second = (record["attempts"][part] for part in ("moralize", "moralize_2"))
    refusals = [row for row in rows_of(config.output, "data") if row["recipe"] == "refuse"]
    assert sum(first.values()) == len(refusals)
    assert sum(second.values()) == sum(first.values()) - first["accepted"]


def test_rewrite_stage_resumes_partial_run_of_model(by_a_model: ByModel, tmp_path: Path) -> None:
    config, record, _ = by_a_model
    check_skip_and_resume(config, record, tmp_path / "copy")


def test_rewrite_stage_shares_documents_with_template(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    with Endpoint(writer) as endpoint:
        config = written_by(endpoint, scored, classifier, str(tmp_path / "out"), engine_share=0.4)
        record = rewrite_documents(config)
    rows = rows_of(config.output, "data") + rows_of(config.output, "rejected")
    by_model = {row["root_id"] for row in rows if row["engine"] == "openai:writer"}
    by_template = {row["root_id"] for row in rows if row["engine"] == "template"}
    assert not by_model & by_template
    assert by_model | by_template == {row["id"] for row in rows_of(str(scored), "") if row["score"]}
    assert 0.15 < len(by_model) / len(by_model | by_template) < 0.65
    counts = {
        engine: {
            name: sum(row["engine"] == engine for row in rows_of(config.output, folder))
            for name, folder in (("accepted", "data"), ("rejected", "rejected"))
        }
        for engine in ("openai:writer", "template")
    }
    assert record["engines"] == counts
    assert {"direct", "direct_template", "moralize_template"} <= record["attempts"].keys()
    again = config.output + "-again"
    shutil.copytree(config.output, again)
    (Path(again) / "record.json").unlink()
    shutil.rmtree(Path(again) / "data" / "moralize_template")
    shutil.rmtree(Path(again) / "rejected" / "moralize_template", ignore_errors=True)
    with Endpoint(writer) as endpoint:
        engine = replace(config.engine, base_url=endpoint.url)
        resumed = rewrite_documents(replace(config, output=again, engine=engine))
        assert not [request for request in endpoint.requests if request["body"]]
    assert resumed["engines"] == counts


def test_rewrite_stage_shares_recipes_with_template(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    with Endpoint(writer) as endpoint:
        config = written_by(
            endpoint,
            scored,
            classifier,
            str(tmp_path / "out"),
            engine_recipes=["rephrase"],
            short_prompts=True,
        )
        record = rewrite_documents(config)
    rows = rows_of(config.output, "data") + rows_of(config.output, "rejected")
    engines = {(row["recipe"], row["engine"]) for row in rows}
    assert engines == {("rephrase", "openai:writer"), ("refuse", "template"), ("moralize", "template")}
    assert {row["style"] for row in rows if row["recipe"] == "rephrase"} == {"short"}
    assert {row["root_id"] for row in rows} == {row["id"] for row in rows_of(str(scored), "") if row["score"]}
    assert not {"moralize", "moralize_2"} & record["attempts"].keys()


def test_rewrite_stage_rephrases_long_documents_by_chunk(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    rows = [r for r in rows_of(str(scored), "") if r["score"] in (1, 2, 3)][:6]
    for n, row in enumerate(rows[:3]):
        row |= {"id": f"long{n}", "text": "\n\n".join([row["text"]] * 4)}
    types = pads.dataset(scored, format="parquet").schema
    dataset.write_table(pa.Table.from_pylist(rows, types), str(tmp_path / "in" / "a.parquet"))
    longest = max(len(row["text"]) for row in rows[3:])
    texts: dict[str, str] = {}
    lock = threading.Lock()

    def numbered(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return a different text per request; decline one chunk of one document in the first attempt."""
        user = body["messages"][1]["content"]
        with lock:
            if "declined" not in texts and any(row["text"][:80] in user for row in rows[:3]):
                texts["declined"] = user
                return 200, completion("I can't help with that.")
            texts[user] = f"This is text number {len(texts)}. {SAFE}".strip()
            return 200, completion(texts[user])

    with Endpoint(numbered) as endpoint:
        config = written_by(
            endpoint, tmp_path / "in", classifier, str(tmp_path / "out"),
            recipes=["rephrase"], max_chars=max(longest, 400), write_rows=2,
            accept={"min_similarity": -0.99, "min_facts": 0.0},
        )  # fmt: skip
        record = rewrite_documents(config)
    accepted = {r["source_id"]: r for r in rows_of(config.output, "data")}
    assert accepted.keys() == {row["id"] for row in rows}
    assert record["attempts"]["direct"]["accepted"] == 3
    attempts = [record["attempts"].get(part, {}) for part in ("direct_long", "direct_long_2", "direct_2")]
    assert sum(counts.get("accepted", 0) for counts in attempts) == 3
    assert sum(counts.get("declined", 0) for counts in attempts) == 1
    for row in rows:
        new = accepted[row["id"]]
        assert -0.99 < new["similarity"] < 0.9
        if row["id"].startswith("long"):
            assert len(new["parts"]) >= 2
            chunks = [new["text"][part["start"] : part["end"]] for part in new["parts"]]
            assert "\n\n".join(chunks) == new["text"]
            assert set(chunks) <= set(texts.values())
            for part, chunk in zip(new["parts"], chunks, strict=True):
                source = row["text"][part["source_start"] : part["source_end"]]
                assert any(source in user and chunk == text for user, text in texts.items())
        else:
            assert new["parts"] is None


def test_rewrite_stage_takes_higher_of_classifier_and_judge(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    rows = [r for r in rows_of(str(scored), "") if r["score"] in (2, 3)][:6]
    types = pads.dataset(scored, format="parquet").schema
    dataset.write_table(pa.Table.from_pylist(rows, types), str(tmp_path / "in" / "a.parquet"))
    written: list[str] = []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if "response_format" not in body:
            written.append(f"This is text number {len(written)}. {SAFE}".strip())
            return 200, completion(written[-1])
        user = body["messages"][1]["content"]
        if "text number 0." in user:
            return 200, completion("I would rather not say.")
        return 200, completion(f'{{"score": {5 if "text number 1." in user else 0}, "reason": "so it is"}}')

    with Endpoint(answer) as endpoint:
        engine = {"kind": "openai", "model": "m", "base_url": endpoint.url, "api_key_env": ""}
        config = written_by(
            endpoint, tmp_path / "in", classifier, str(tmp_path / "out"),
            recipes=["rephrase"], attempts=1, judge=engine,
        )  # fmt: skip
        record = rewrite_documents(config)
    kept, rejected = rows_of(config.output, "data"), rows_of(config.output, "rejected")
    assert sorted(r["text"] for r in kept + rejected) == sorted(written)
    reasons = {r["text"]: r["rejected_reason"] for r in rejected}
    assert reasons[written[0]] == "judge: no score"
    assert reasons[written[1]].startswith("not safer: score 5")
    assert {(r["judge_score"], r["judged_by"]) for r in kept} == {(0, "openai:m")}
    assert all(r["score"] == max(r["classifier_score"], r["judge_score"]) for r in kept)
    assert record["attempts"] == {"direct": {"accepted": 4, "judge": 1, "not safer": 1}}


def test_rewrite_stage_dry_run_estimates_full_run(
    tmp_path: Path,
    scored: Path,
    classifier: Path,
    by_a_model: ByModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "out")
    with Endpoint(writer) as endpoint:
        config = written_by(
            endpoint, scored, classifier, output, dry_run=True, dry_run_rows=24, price_per_hour=1000.0
        )
        estimate = rewrite_documents(config)
    assert not Path(output).exists()
    full_run = len(by_a_model[2])
    assert len([r for r in endpoint.requests if r["body"]]) < full_run
    assert estimate["sampled"] == 24 < estimate["documents"]
    # The full run is within the interval, or close to it.
    for name, per_request in (("prompt_tokens", 12), ("reply_tokens", 5)):
        value, low, high = estimate[name]
        assert low <= value <= high
        assert 0.8 * low <= per_request * full_run <= 1.2 * high
    assert estimate["price"][0] == pytest.approx(1000 * estimate["engine_hours"][0], abs=1.0)
    printed = capsys.readouterr().out
    assert f"{estimate['documents']:,} documents, estimated from 24" in printed
    assert "price" in printed
    with pytest.raises(UserError, match="dry_run measures a language model"):
        rewrite_documents(replace(config, engine=EngineConfig(kind="template")))


def test_rewrite_stage_bands_start_at_audit_threshold(
    config: RewriteConfig, scored: Path, tmp_path: Path, ray_cluster: None
) -> None:
    audit = AuditConfig(
        scored=str(scored), output=str(tmp_path / "audit"), labels="label", unsafe_from=4,
        wanted={"precision": 0.6},
    )  # fmt: skip
    threshold = audit_scores(audit)["threshold"]
    assert 1 < threshold < 5, "the threshold excludes some of the scores"
    audited = replace(
        config, output=str(tmp_path / "out"), thresholds_from=audit.output, recipes=["rephrase", "refuse"]
    )
    record = rewrite_documents(audited)
    rows = rows_of(audited.output, "data") + rows_of(audited.output, "rejected")
    expected = {r["id"] for r in rows_of(str(scored), "") if r["score"] >= threshold}
    assert {r["source_id"] for r in rows} == expected
    assert record["threshold"] == threshold
    assert "thresholds_from" in record["inputs"]
    with pytest.raises(
        UserError,
        match=rf"threshold {threshold} is above all of rephrase_scores=\[1\] and refuse_scores=\[\]",
    ):
        rewrite_documents(
            replace(audited, output=str(tmp_path / "none"), rephrase_scores=[1], refuse_scores=[])
        )
    with pytest.raises(UserError, match="is not an audit; create one"):
        rewrite_documents(replace(audited, output=str(tmp_path / "none"), thresholds_from=str(scored)))
