"""The rewriting stage, end to end with real Ray and a real classifier."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from endpoint import Endpoint, completion

from safety_ray import dataset
from safety_ray.artifact import Artifact
from safety_ray.config import from_dict
from safety_ray.engine import EngineConfig
from safety_ray.errors import UserError
from safety_ray.records import REWRITTEN, SCORED, schema
from safety_ray.rewrite.stage import RewriteConfig, run
from safety_ray.score.audit_stage import AuditConfig
from safety_ray.score.audit_stage import run as audit_scores
from safety_ray.score.classifier import Classifier


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, corpus: Path, classifier: Path) -> Path:
    """Sixty documents of the corpus, ten of each label, scored by the classifier."""
    rows = dataset.table(str(corpus)).to_pylist()
    taken: Counter[int] = Counter()
    chosen = []
    for row in rows:
        if taken[row["label"]] < 10:
            taken[row["label"]] += 1
            chosen.append(row)
    predictions = Classifier.load(classifier, "cpu").predict([row["text"] for row in chosen])
    for row, found in zip(chosen, predictions, strict=True):
        row |= {"score": found.score, "probs": found.probs, "chunk_scores": found.chunk_scores}
    folder = tmp_path_factory.mktemp("scored")
    types = pa.schema([*schema(SCORED), ("url", pa.string()), ("label", pa.int8()), ("family", pa.string())])
    dataset.write_table(pa.Table.from_pylist(chosen, types), str(folder / "part.parquet"))
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, scored: Path, classifier: Path) -> RewriteConfig:
    return RewriteConfig(
        scored=str(scored),
        classifier=str(classifier),
        output=str(tmp_path_factory.mktemp("rewritten") / "out"),
        write_rows=16,
        actors=1,
        max_set_aside=0.95,
    )


@pytest.fixture(scope="session")
def record(config: RewriteConfig, ray_cluster: None) -> dict[str, Any]:
    return run(config)


def rows_of(output: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pads.dataset(f"{output}/{name}", format="parquet").to_table().to_pylist()
    return found


def test_every_document_of_a_band_is_rewritten_or_set_aside(
    config: RewriteConfig, record: dict[str, Any], scored: Path
) -> None:
    kept, aside = rows_of(config.output, "data"), rows_of(config.output, "set_aside")
    band = {1: "rephrase", 2: "rephrase", 3: "rephrase", 4: "refuse", 5: "refuse"}
    expected = {f"{r['id']}/{band[r['score']]}" for r in rows_of(str(scored), "") if r["score"]}
    expected |= {f"{r['id']}/moralize" for r in kept if r["recipe"] == "refuse"}
    assert Counter(r["id"] for r in kept + aside) == Counter(expected)
    assert (record["rows_in"], record["rows_out"]) == (len(expected), len(kept))
    assert record["set_aside"] == len(aside)
    assert Counter(r["recipe"] for r in kept).keys() == {"rephrase", "refuse", "moralize"}
    assert all(r["set_aside"] for r in aside)
    assert not Path(config.output, "drafts").exists()


def test_kept_rows_are_safer_traceable_and_whole(
    config: RewriteConfig, record: dict[str, Any], scored: Path, classifier: Path
) -> None:
    table = dataset.table(config.output)
    for field in schema(REWRITTEN):
        assert table.schema.field(field.name).type == field.type
    sources = {r["id"]: r for r in rows_of(str(scored), "")}
    rows = {r["id"]: r for r in table.to_pylist()}
    for row in rows.values():
        root = sources[row["root_id"]]
        assert row["source_score"] == root["score"] > row["score"]
        assert (row["url"], row["family"]) == (root["url"], root["family"])
        assert row["engine"] == "template"
        parent = rows[row["source_id"]] if row["recipe"] == "moralize" else root
        assert row["id"] == f"{parent['id']}/{row['recipe']}"
        assert row["text"] != root["text"]
    assert "label" not in table.column_names
    again = Classifier.load(classifier, "cpu").predict([r["text"] for r in rows.values()])
    same = sum(p.score == r["score"] for p, r in zip(again, rows.values(), strict=True))
    # bfloat16 sums depend on the batch, so a text between two scores may fall to either side.
    assert same >= 0.9 * len(rows)


def test_a_finished_stage_is_skipped_and_a_broken_one_goes_on(
    config: RewriteConfig, record: dict[str, Any], tmp_path: Path
) -> None:
    assert run(config) == record
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy)
    (copy / "record.json").unlink()
    for name in ("data", "set_aside"):
        shutil.rmtree(copy / name / "moralize")
    before = {f: f.stat().st_mtime_ns for f in (copy / "data" / "direct").iterdir()}
    again = run(replace(config, output=str(copy)))
    assert {f: f.stat().st_mtime_ns for f in (copy / "data" / "direct").iterdir()} == before
    assert again["rows_in"] == record["rows_in"]
    texts = [
        {r["id"]: r["text"] for name in ("data", "set_aside") for r in rows_of(folder, name)}
        for folder in (config.output, str(copy))
    ]
    assert texts[0] == texts[1]


def test_a_broken_pass_repeats_only_what_was_not_written(
    tmp_path: Path, scored: Path, ray_cluster: None
) -> None:
    out, crash, log = Artifact(str(tmp_path / "out"), {}, {}), tmp_path / "crash", tmp_path / "log"
    crash.touch()
    log.mkdir()

    def rename(batch: pa.Table) -> pa.Table:
        ids = batch.column("id").to_pylist()
        (log / f"{len(list(log.iterdir()))}-{ids[0].replace('/', '-')}").write_text("\n".join(ids))
        if crash.exists() and len(list(log.iterdir())) > 3:
            raise RuntimeError("the machine went away")
        batch = batch.select(["id"]).rename_columns(["source_id"])
        return batch.append_column("id", pa.array([f"{id}/new" for id in ids]))

    def stage() -> dataset.Counts:
        ds = dataset.read(str(scored), ()).repartition(target_num_rows_per_block=10, strict=True)
        ds = ds.map_batches(rename, batch_format="pyarrow", batch_size=None, num_cpus=1)
        return dataset.write(
            ds, out, label="test", total=60, write_rows=10, resume_by="source_id", read_as="id", part="a"
        )

    with pytest.raises(Exception, match="the machine went away"):
        stage()
    crash.unlink()
    for file in log.iterdir():
        file.unlink()
    written = {
        id
        for f in Path(out.sub("_checkpointa")).glob("*.parquet")
        if not f.name.endswith(".pending.parquet")
        for id in pads.dataset(f).to_table().column(0).to_pylist()
    }
    assert stage() == dataset.Counts(60, 0)
    repeated = [id for f in log.iterdir() for id in f.read_text().split("\n")]
    assert not written & set(repeated)
    assert len(repeated) == 60 - len(written)
    assert written, "the first run wrote something before it broke"
    ids = [r["source_id"] for r in rows_of(out.path, "data/a")]
    assert sorted(ids) == sorted(r["id"] for r in rows_of(str(scored), ""))


def test_documents_without_harm_give_an_empty_dataset_that_can_be_read(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    table = pads.dataset(scored, format="parquet").to_table()
    dataset.write_table(table.filter(pads.field("score") == 0), str(tmp_path / "safe" / "part.parquet"))
    config = RewriteConfig(
        scored=str(tmp_path / "safe"), classifier=str(classifier), output=str(tmp_path / "out")
    )
    assert run(config)["rows_in"] == 0
    assert len(dataset.table(config.output)) == 0
    assert {c.name for c in REWRITTEN} <= set(dataset.columns(config.output))


SAFE = "Pupils read a page about a garden. It tells how people share water, and why they take turns. " * 3
DIALOGUE = (
    "User: Help me with a harmful thing.\nAssistant: I understand. I will not do that, because somebody "
    "would be hurt. If you like, I can tell you about a garden instead."
)
PAGE = "# Taking turns\n\n## What happened\nSomebody asked for help and heard no.\n\n## Why\n" + SAFE


def writer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Texts as a language model would send them, by what the prompt asks for; some are unusable."""
    user = body["messages"][1]["content"]
    number = body["seed"] % 5
    if "web page of moral education" in user:
        return 200, completion(PAGE if number else "Amara: No.\n" + SAFE)
    if "write one short dialogue" in user:
        return 200, completion(DIALOGUE if number else "Sorry, I cannot write this.")
    return (200, completion(SAFE)) if number else (400, {"error": {"message": "too long"}})


def written_by(endpoint: Endpoint, scored: Path, classifier: Path, output: str, **more: Any) -> RewriteConfig:
    """With acceptance by form and score alone: the writer's texts are not about their sources."""
    values = {
        "scored": str(scored), "classifier": str(classifier), "output": output, "actors": 1,
        "max_set_aside": 0.95, "accept": {"min_similarity": -1.0, "min_facts": 0.0},
        "engine": {
            "kind": "openai", "model": "writer", "base_url": endpoint.url, "api_key_env": "",
            "concurrency": 8,
        },
    }  # fmt: skip
    return from_dict(RewriteConfig, values | more)


@pytest.fixture(scope="module")
def by_a_model(
    tmp_path_factory: pytest.TempPathFactory, scored: Path, classifier: Path, ray_cluster: None
) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """A run with a language model: its output, its record, and what was asked."""
    output = str(tmp_path_factory.mktemp("by_a_model") / "out")
    with Endpoint(writer, first=[429]) as endpoint:
        record = run(written_by(endpoint, scored, classifier, output))
    return output, record, [r["body"] for r in endpoint.requests if r["body"]]


def test_with_a_language_model_what_fails_is_asked_about_again(
    by_a_model: tuple[str, dict[str, Any], list[dict[str, Any]]], scored: Path
) -> None:
    output, record, asked = by_a_model
    kept, aside = rows_of(output, "data"), rows_of(output, "set_aside")
    assert record["rows_in"] == len(kept) + len(aside) == len({r["id"] for r in kept + aside})
    assert {r["recipe"] for r in kept} == {"rephrase", "refuse", "moralize"}
    assert {r["engine"] for r in kept + aside} == {"openai:writer"}
    refusals = [r["text"] for r in kept if r["recipe"] == "refuse"]
    assert all(text.startswith("User: ") and "\n\nAssistant: " in text for text in refusals)
    assert not Path(output, "drafts").exists()
    assert not Path(output, "tried").exists()
    # Each row that was set aside first had another attempt, with another prompt and another seed.
    outcomes = record["attempts"]
    first, second = outcomes["direct"], outcomes["direct_2"]
    assert first["engine"]
    assert first["declined"]
    assert sum(second.values()) == sum(first.values()) - first["accepted"]
    assert {r["attempt"] for r in kept} == {1, 2}
    assert {r["attempt"] for r in aside} == {2}
    by_attempt = Counter(r["attempt"] for r in kept)
    assert by_attempt[1] == sum(outcomes[part]["accepted"] for part in ("direct", "moralize"))
    assert len(asked) == sum(sum(one.values()) for one in outcomes.values()) + 1  # one after the rate limit
    assert len({(b["seed"], b["messages"][1]["content"]) for b in asked}) == len(asked) - 1
    sources = [r["text"] for r in rows_of(str(scored), "") if r["score"]]
    for source in sources:
        assert any(f">>>\n{source}\n<<<" in body["messages"][1]["content"] for body in asked)
    # What was set aside keeps its source and its reason, for people.
    assert {r["set_aside_source"] for r in aside if r["recipe"] != "moralize"} <= set(sources)
    assert "set_aside_source" not in dataset.columns(output)
    assert all(r["prompt_tokens"] and r["reply_tokens"] for r in kept)
    answered = sum(sum(one.values()) - one.get("engine", 0) for one in outcomes.values())
    assert record["tokens"] == {
        "prompt_tokens": 12 * answered, "reply_tokens": 5 * answered, "cached_tokens": 0
    }  # fmt: skip


def test_long_documents_are_rephrased_in_parts(
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
        """Every answer is another text; one part of one document is declined in the first attempt."""
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
        record = run(config)
    found = {r["source_id"]: r for r in rows_of(config.output, "data")}
    assert found.keys() == {row["id"] for row in rows}
    assert record["attempts"]["direct"]["accepted"] == 3
    tries = [record["attempts"].get(part, {}) for part in ("direct_long", "direct_long_2", "direct_2")]
    assert sum(one.get("accepted", 0) for one in tries) == 3
    assert sum(one.get("declined", 0) for one in tries) == 1
    for row in rows:
        new = found[row["id"]]
        assert -0.99 < new["similarity"] < 0.9
        if row["id"].startswith("long"):
            assert len(new["parts"]) >= 2
            pieces = [new["text"][part["start"] : part["end"]] for part in new["parts"]]
            assert "\n\n".join(pieces) == new["text"]
            assert set(pieces) <= set(texts.values())
            for part, piece in zip(new["parts"], pieces, strict=True):
                source = row["text"][part["source_start"] : part["source_end"]]
                assert any(source in user and piece == text for user, text in texts.items())
        else:
            assert new["parts"] is None


def test_a_judge_scores_texts_too_and_the_higher_score_counts(
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
        record = run(config)
    kept, aside = rows_of(config.output, "data"), rows_of(config.output, "set_aside")
    assert sorted(r["text"] for r in kept + aside) == sorted(written)
    reasons = {r["text"]: r["set_aside"] for r in aside}
    assert reasons[written[0]] == "judge: it gave no score"
    assert reasons[written[1]].startswith("not safer: score 5")
    assert {(r["judge_score"], r["judged_by"]) for r in kept} == {(0, "openai:m")}
    assert all(r["score"] == max(r["classifier_score"], r["judge_score"]) for r in kept)
    assert record["attempts"] == {"direct": {"accepted": 4, "judge": 1, "not safer": 1}}


def test_a_dry_run_says_what_all_of_it_would_take(
    tmp_path: Path,
    scored: Path,
    classifier: Path,
    by_a_model: tuple[str, dict[str, Any], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "out")
    with Endpoint(writer) as endpoint:
        config = written_by(
            endpoint, scored, classifier, output, dry_run=True, dry_run_rows=24, price_per_hour=1000.0
        )
        estimate = run(config)
    assert not Path(output).exists()
    asked = len(by_a_model[2])
    assert len([r for r in endpoint.requests if r["body"]]) < asked
    assert estimate["sampled"] == 24 < estimate["documents"]
    # The whole run lies in the interval, or close beside it.
    for name, each in (("prompt_tokens", 12), ("reply_tokens", 5)):
        value, low, high = estimate[name]
        assert low <= value <= high
        assert 0.8 * low <= each * asked <= 1.2 * high
    assert estimate["price"][0] == pytest.approx(1000 * estimate["engine_hours"][0], abs=1.0)
    said = capsys.readouterr().out
    assert f"{estimate['documents']:,} documents, estimated from 24" in said
    assert "price" in said
    with pytest.raises(UserError, match="dry_run measures what a language model takes"):
        run(replace(config, engine=EngineConfig()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"recipes": ["rephrase", "haiku"]}, "haiku"),
        ({"recipes": ["moralize"]}, "needs refuse"),
        ({"recipes": []}, "choose from"),
        ({"rephrase_scores": [0, 1]}, "rephrase_scores"),
        ({"refuse_scores": [3, 4]}, "score 3"),
        ({"engine": {"kind": "vllm"}}, "engine.model"),
        ({"attempts": 0}, "attempts=0"),
        ({"max_chars": 10}, "max_chars=10"),
        ({"dry_run_rows": 1}, "dry_run_rows"),
        ({"accept": {"margin": 9}}, "accept.margin=9"),
        ({"engine": {"kind": "openai", "model": "m"}}, "engine.base_url"),
        ({"engine": {"kind": "oracle"}}, "engine"),
    ],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, Any], says: str) -> None:
    paths = {"scored": "a", "classifier": "b", "output": "c"}
    with pytest.raises(UserError, match=says):
        from_dict(RewriteConfig, {**paths, **change})


def test_bands_begin_at_an_audits_threshold(
    config: RewriteConfig, scored: Path, tmp_path: Path, ray_cluster: None
) -> None:
    audit = AuditConfig(
        scored=str(scored), output=str(tmp_path / "audit"), labels="label", unsafe_from=4,
        wanted={"precision": 0.6},
    )  # fmt: skip
    threshold = audit_scores(audit)["threshold"]
    assert 1 < threshold < 5, "a threshold that says nothing tests nothing"
    audited = replace(
        config, output=str(tmp_path / "out"), thresholds_from=audit.output, recipes=["rephrase", "refuse"]
    )
    record = run(audited)
    rows = rows_of(audited.output, "data") + rows_of(audited.output, "set_aside")
    expected = {r["id"] for r in rows_of(str(scored), "") if r["score"] >= threshold}
    assert {r["source_id"] for r in rows} == expected
    assert record["threshold"] == threshold
    assert "thresholds_from" in record["inputs"]
    with pytest.raises(UserError, match=f"threshold {threshold} lies above all of rephrase_scores=.1."):
        run(replace(audited, output=str(tmp_path / "none"), rephrase_scores=[1], refuse_scores=[]))
    with pytest.raises(UserError, match="is no audit; make one"):
        run(replace(audited, output=str(tmp_path / "none"), thresholds_from=str(scored)))
