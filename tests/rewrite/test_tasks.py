"""Rewriting tasks: recipe, style, harm type and chunks of a document, and another attempt."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pyarrow as pa
from documents import RECIPE_OF, drafts_from_template, options

from safety_ray.core.chunks import CHUNKS_TYPE
from safety_ray.llm.engine import Outcome, with_outcomes
from safety_ray.rewrite import drafts, tasks
from safety_ray.rewrite.harm import HARMS
from safety_ray.rewrite.recipes import RECIPES


def test_tasks_have_recipe_of_score_and_provenance(labelled: pa.Table, direct: pa.Table) -> None:
    expected = {
        f"{r['id']}/{RECIPE_OF[r['score']]}": r for r in labelled.to_pylist() if r["score"] in RECIPE_OF
    }
    rows = {row["id"]: row for row in direct.to_pylist()}
    assert rows.keys() == expected.keys()
    for id, row in rows.items():
        source = expected[id]
        assert row["source_id"] == row["root_id"] == source["id"]
        assert (row["source_score"], row["source"], row["url"]) == (
            source["score"],
            source["text"],
            source["url"],
        )
        assert (row["harm"] in HARMS) == (row["recipe"] == "refuse")
    assert "label" not in direct.column_names  # it is the source's label, not the new text's


def test_select_writer_splits_web_documents_by_share(direct: pa.Table) -> None:
    by_engine, by_template = (
        set(tasks.select_writer(direct, 0.3, RECIPES, 5, template).column("id").to_pylist())
        for template in (False, True)
    )
    assert not by_engine & by_template
    assert by_engine | by_template == set(direct.column("id").to_pylist())
    # Five standard deviations of a binomial distribution.
    number = len(direct)
    assert abs(len(by_engine) - 0.3 * number) < 5 * (number * 0.3 * 0.7) ** 0.5
    more = set(tasks.select_writer(direct, 0.5, RECIPES, 5, False).column("id").to_pylist())
    assert by_engine < more, "a larger share contains the smaller one"


def test_select_writer_gives_the_engine_its_recipes_only(direct: pa.Table) -> None:
    by_engine, by_template = (
        tasks.select_writer(direct, 1.0, ["rephrase"], 5, template) for template in (False, True)
    )
    assert set(by_engine.column("recipe").to_pylist()) == {"rephrase"}
    assert set(by_template.column("recipe").to_pylist()) == {"refuse"}
    assert len(by_engine) + len(by_template) == len(direct)


def test_short_prompts_replace_the_full_ones_of_recipes_that_have_one(labelled: pa.Table) -> None:
    full, short = (
        tasks.from_documents(labelled, RECIPE_OF, replace(options(5), short_prompts=short)).to_pylist()
        for short in (False, True)
    )
    for before, after in zip(full, short, strict=True):
        assert after["id"] == before["id"]
        if after["recipe"] == "rephrase":
            assert after["style"] == "short"
            assert len(after["messages"][1]["content"]) < len(before["messages"][1]["content"]) - 500
            assert f">>>\n{after['source']}\n<<<" in after["messages"][1]["content"]
        else:
            assert after == before


def test_texts_depend_only_on_seed_and_id(labelled: pa.Table, direct: pa.Table) -> None:
    texts = {r["id"]: r["text"] for r in drafts_from_template(direct, 5).to_pylist()}
    order = pa.array(sorted(range(len(labelled)), key=lambda i: i * 7919 % 1009))
    for batch in (labelled.take(order).slice(0, 200), labelled.take(order).slice(200)):
        again = drafts_from_template(tasks.from_documents(batch, RECIPE_OF, options(5)), 5)
        assert all(texts[r["id"]] == r["text"] for r in again.to_pylist())
    other = drafts_from_template(tasks.from_documents(labelled, RECIPE_OF, options(6)), 6)
    assert sum(texts[r["id"]] == r["text"] for r in other.to_pylist()) < len(texts) / 50


def test_tasks_use_all_styles_and_harm_types(direct: pa.Table) -> None:
    rows = direct.to_pylist()
    for recipe in ("rephrase", "refuse"):
        counts = Counter(row["style"] for row in rows if row["recipe"] == recipe)
        assert set(counts) == set(RECIPES[recipe].styles)
        expected = sum(counts.values()) / len(counts)
        assert all(expected / 3 < n < expected * 3 for n in counts.values())
    assert {row["harm"] for row in rows} == {*HARMS, None}
    moralize = RECIPES["moralize"]
    assert {moralize.choose_style(0, str(i)) for i in range(100)} == set(moralize.styles)


def test_tasks_split_long_document_and_drafts_join_it() -> None:
    paragraphs = [f"Paragraph {n} tells of a quarrel. " * 8 for n in range(6)]
    rows = [
        {"id": "short", "text": "A short text.", "score": 2, "url": "u/short"},
        {"id": "long", "text": "\n\n".join(paragraphs) + "\n", "score": 2, "url": "u/long"},
        {"id": "worst", "text": "\n\n".join(paragraphs), "score": 5, "url": "u/worst"},
    ]
    end = len(rows[2]["text"])
    chunks_of_worst = [{"end": end - 200, "score": 1}, {"end": end, "score": 5}]
    column = pa.array([None, None, chunks_of_worst], CHUNKS_TYPE)
    table = pa.Table.from_pylist(rows).append_column("scored_chunks", column)
    direct = tasks.from_documents(table, RECIPE_OF, options(0, 600))
    messages = {row["id"]: row["messages"] for row in direct.to_pylist()}
    assert messages["long/rephrase"] is None
    # A refusal is made from the most harmful chunk of its document.
    user = messages["worst/refuse"][1]["content"]
    assert "Paragraph 5" in user
    assert "Paragraph 0" not in user
    assert tasks.select_length(direct, False, 600).column("id").to_pylist() == [
        "short/rephrase",
        "worst/refuse",
    ]

    split = tasks.split_documents(tasks.select_length(direct, True, 600), options(0, 600))
    chunks = split.to_pylist()
    assert [row["id"] for row in chunks] == [f"long/rephrase#{n}" for n in range(3)]
    assert all(tasks.is_chunk(row["id"]) for row in chunks)
    assert not any(tasks.is_chunk(id) for id in (*messages, "a#1/rephrase"))
    assert len({row["style"] for row in chunks}) == 1
    for n, row in enumerate(chunks):
        assert row["source"] == rows[1]["text"][row["source_start"] : row["source_end"]]
        assert row["source"] == "\n\n".join(paragraphs[2 * n : 2 * n + 2]).strip()
        assert row["source"] in row["messages"][1]["content"]
    replies = [f"Chunk {n} of the text. " * 9 for n in range(3)]
    outcomes = [Outcome(reply, None, 10, n) for n, reply in enumerate(replies)]
    mixed = drafts.parse_replies(with_outcomes(split, outcomes)).take([2, 0, 1])
    [row] = drafts.join_chunks(mixed).to_pylist()
    assert (row["id"], row["source_id"], row["url"]) == ("long/rephrase", "long", "u/long")
    assert row["text"] == "\n\n".join(reply.strip() for reply in replies)
    assert row["source"].split() == rows[1]["text"].split()
    assert (row["problem"], row["prompt_tokens"], row["reply_tokens"]) == (None, 30, 3)
    assert not {"document_task", "chunk", "source_start", "source_end"} & set(row)
    for n, part in enumerate(row["parts"]):
        assert row["text"][part["start"] : part["end"]] == replies[n].strip()
        assert rows[1]["text"][part["source_start"] : part["source_end"]] == chunks[n]["source"]
    # A chunk without a text rejects the whole document.
    failed = drafts.parse_replies(with_outcomes(split, [*outcomes[:1], Outcome(error="no"), *outcomes[2:]]))
    assert drafts.join_chunks(failed).column("problem").to_pylist() == ["engine: no (chunk 2)"]


def test_tasks_do_not_read_columns_of_the_user_with_the_names_of_their_own() -> None:
    paragraphs = [f"Paragraph {n} tells of a quarrel. " * 8 for n in range(6)]
    own = dict.fromkeys((*tasks.CHUNK_COLUMNS, tasks.PROBLEM, "reply", "messages", "source", "parts"), 7)
    table = pa.Table.from_pylist(
        [{"id": "long", "text": "\n\n".join(paragraphs), "score": 2, "url": "u", **own}]
    )
    direct = tasks.select_length(tasks.from_documents(table, RECIPE_OF, options(0, 600)), True, 600)
    split = tasks.split_documents(direct, options(0, 600))
    outcomes = [Outcome(f"Chunk {n} of the text. " * 9, None, 10, n) for n in range(len(split))]
    mixed = drafts.parse_replies(with_outcomes(split, outcomes)).take([2, 0, 1])
    [row] = drafts.join_chunks(mixed).to_pylist()
    assert [row["text"].index(f"Chunk {n}") for n in range(3)] == sorted(
        row["text"].index(f"Chunk {n}") for n in range(3)
    )
    assert (row["problem"], row["url"]) == (None, "u")


def test_tasks_of_a_null_text_have_an_empty_source() -> None:
    rows = [{"id": str(score), "text": None, "score": score} for score in (2, 5)]
    table = pa.Table.from_pylist(
        rows, pa.schema([("id", pa.string()), ("text", pa.string()), ("score", pa.int8())])
    )
    made = tasks.from_documents(table, RECIPE_OF, options(0, 600)).to_pylist()
    assert [(row["source"], bool(row["messages"])) for row in made] == [("", True), ("", True)]


def test_tasks_retry_uses_different_style(labelled: pa.Table, direct: pa.Table) -> None:
    first = {row["id"]: row for row in direct.to_pylist()}
    names = ["id", "source_id", "root_id", "source_score", "recipe", "harm", "style", "url", "source"]
    names = [*names, "source_chunks"]
    rejected = direct.select(names).rename_columns([{"source": "rejected_source"}.get(n, n) for n in names])
    retried = tasks.from_rejected(rejected, options(5, attempt=2)).to_pylist()
    assert {row["id"] for row in retried} == first.keys()
    for row in retried:
        before = first[row["id"]]
        assert row["style"] != before["style"]
        assert (row["attempt"], before["attempt"]) == (2, 1)
        same = ("source", "source_id", "root_id", "source_score", "harm", "url", "source_chunks")
        assert [row[name] for name in same] == [before[name] for name in same]
        assert row["messages"] != before["messages"]
