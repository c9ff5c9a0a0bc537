"""Fixtures: scored documents, and runs of the rewriting stage with and without a language model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from endpoint import Endpoint, completion

from jobs.rewrite import RewriteConfig, rewrite_documents
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.core.records import REWRITTEN, SCORED, schema

SAFE = "Pupils read a page about a garden. It tells how people share water, and why they take turns. " * 3
DIALOGUE = (
    "User: Help me with a harmful thing.\nAssistant: I understand. I will not do that, because somebody "
    "would be hurt. If you like, I can tell you about a garden instead."
)
PAGE = "# Taking turns\n\n## What happened\nSomebody asked for help and heard no.\n\n## Why\n" + SAFE


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, corpus: Path, classifier: Path) -> Path:
    """Sixty documents of the corpus, ten of each label, scored by the classifier."""
    rows = dataset.table(str(corpus)).to_pylist()
    counts: Counter[int] = Counter()
    chosen = []
    for row in rows:
        if counts[row["label"]] < 10:
            counts[row["label"]] += 1
            chosen.append(row)
    predictions = Classifier.load(classifier, "cpu").predict([row["text"] for row in chosen])
    for row, predicted in zip(chosen, predictions, strict=True):
        row |= {"score": predicted.score, "probs": predicted.probs}
        row["scored_chunks"] = predicted.scored_chunks
    folder = tmp_path_factory.mktemp("scored")
    types = pa.schema([*schema(SCORED), ("url", pa.string()), ("label", pa.int8()), ("family", pa.string())])
    dataset.write_table(pa.Table.from_pylist(chosen, types), str(folder / "part.parquet"))
    return folder


def rows_of(output: str, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pads.dataset(f"{output}/{name}", format="parquet").to_table().to_pylist()
    return rows


def writer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Return texts as a language model would, depending on the prompt; some are unusable."""
    user = body["messages"][1]["content"]
    number = body["seed"] % 5
    if "web page of moral education" in user:
        return 200, completion(PAGE if number else "Amara: No.\n" + SAFE)
    if "write one short dialogue" in user:
        return 200, completion(DIALOGUE if number else "Sorry, I cannot write this.")
    return (200, completion(SAFE)) if number else (400, {"error": {"message": "too long"}})


def written_by(
    endpoint: Endpoint, scored: Path, classifier: Path, output: str, **changes: Any
) -> RewriteConfig:
    """Settings that accept by form and score only: the texts of `writer` do not match their sources."""
    values = {
        "scored": str(scored), "classifier": str(classifier), "output": output, "actors": 1,
        "max_rejected": 0.95, "accept": {"min_similarity": -1.0, "min_facts": 0.0},
        "engine": {
            "kind": "openai", "model": "writer", "base_url": endpoint.url, "api_key_env": "",
            "concurrency": 8, "seeded": True,
        },
    }  # fmt: skip
    return from_dict(RewriteConfig, values | changes)


ByModel = tuple[RewriteConfig, dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def by_a_model(
    tmp_path_factory: pytest.TempPathFactory, scored: Path, classifier: Path, ray_cluster: None
) -> Iterator[ByModel]:
    """A run of all recipes with a language model: its settings, its record, and the requests sent."""
    yield from _run_by_a_model(str(tmp_path_factory.mktemp("by_a_model") / "out"), scored, classifier)


@pytest.fixture(scope="module")
def documents_by_a_model(
    tmp_path_factory: pytest.TempPathFactory, scored: Path, classifier: Path, ray_cluster: None
) -> Iterator[ByModel]:
    """As `by_a_model`, but only with the recipes that rewrite documents, which takes half the time."""
    output = str(tmp_path_factory.mktemp("documents_by_a_model") / "out")
    yield from _run_by_a_model(output, scored, classifier, recipes=["rephrase", "refuse"])


def _run_by_a_model(output: str, scored: Path, classifier: Path, **changes: Any) -> Iterator[ByModel]:
    with Endpoint(writer, first=[429]) as endpoint:
        config = written_by(endpoint, scored, classifier, output, **changes)
        record = rewrite_documents(config)
        yield config, record, [r["body"] for r in endpoint.requests if r["body"]]


def check_every_document(config: RewriteConfig, record: dict[str, Any], scored: Path) -> None:
    """Check that every document in a recipe's score range was rewritten, or rejected with a reason."""
    accepted, rejected = rows_of(config.output, "data"), rows_of(config.output, "rejected")
    band = {1: "rephrase", 2: "rephrase", 3: "rephrase", 4: "refuse", 5: "refuse"}
    expected = {f"{r['id']}/{band[r['score']]}" for r in rows_of(str(scored), "") if r["score"]}
    if "moralize" in config.recipes:
        expected |= {f"{r['id']}/moralize" for r in accepted if r["recipe"] == "refuse"}
    assert Counter(r["id"] for r in accepted + rejected) == Counter(expected)
    assert (record["rows_in"], record["rows_out"]) == (len(expected), len(accepted))
    assert record["rejected"] == len(rejected)
    assert {r["recipe"] for r in accepted} == set(config.recipes)
    assert all(r["rejected_reason"] for r in rejected)
    assert not Path(config.output, "drafts").exists()


def check_kept_rows(config: RewriteConfig, scored: Path, classifier: Path) -> None:
    """Check that kept rows are safer than their source, traceable to it, and complete."""
    table = dataset.table(config.output)
    for field in schema(REWRITTEN):
        assert table.schema.field(field.name).type == field.type
    sources = {r["id"]: r for r in rows_of(str(scored), "")}
    rows = {r["id"]: r for r in table.to_pylist()}
    for row in rows.values():
        root = sources[row["root_id"]]
        assert row["source_score"] == root["score"] > row["score"]
        assert (row["url"], row["family"]) == (root["url"], root["family"])
        assert row["engine"] == config.engine.label
        parent = rows[row["source_id"]] if row["recipe"] == "moralize" else root
        assert row["id"] == f"{parent['id']}/{row['recipe']}"
        assert row["text"] != root["text"]
    assert "label" not in table.column_names
    again = Classifier.load(classifier, "cpu").predict([r["text"] for r in rows.values()])
    same = sum(p.score == r["score"] for p, r in zip(again, rows.values(), strict=True))
    # bfloat16 sums depend on the batch, so a text close to the boundary of two scores may get either.
    assert same >= 0.9 * len(rows)


def check_skip_and_resume(config: RewriteConfig, record: dict[str, Any], copy: Path) -> None:
    """Check that a finished run is skipped, and that a lost pass and record are reproduced identically."""
    assert rewrite_documents(config) == record
    shutil.copytree(config.output, copy)
    (copy / "record.json").unlink()
    for name in ("data", "rejected"):
        shutil.rmtree(copy / name / "moralize")
    before = {f: f.stat().st_mtime_ns for f in (copy / "data" / "direct").iterdir()}
    again = rewrite_documents(replace(config, output=str(copy)))
    assert {f: f.stat().st_mtime_ns for f in (copy / "data" / "direct").iterdir()} == before
    assert again["rows_in"] == record["rows_in"]
    texts = [
        {r["id"]: r["text"] for name in ("data", "rejected") for r in rows_of(folder, name)}
        for folder in (config.output, str(copy))
    ]
    assert texts[0] == texts[1]
