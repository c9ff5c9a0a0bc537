"""Parsers, checks, phrases and the engine without a language model: no Ray."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources

import pyarrow as pa
import pytest

from jobs.corpus import documents
from safety_ray.corpus.seeds import load_seeds
from safety_ray.llm.engine import Outcome, with_outcomes
from safety_ray.rewrite import parse, tasks, template
from safety_ray.rewrite.acceptance import Bounds, verdict
from safety_ray.rewrite.harm import HARMS, harm_of, topics_of
from safety_ray.rewrite.phrasebook import book
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.styles import STYLES, draw

BANDS = {1: "rephrase", 2: "rephrase", 3: "rephrase", 4: "refuse", 5: "refuse"}
PARTS = ("request", "reason", "alternative", "title", "wish", "effect", "principle", "better")


@pytest.fixture(scope="module")
def labelled() -> pa.Table:
    """One document of each seed, with its label as score."""
    rows = [
        {"id": r["id"], "text": r["text"], "score": r["label"], "url": r["url"], "label": r["label"]}
        for r in documents(len(load_seeds()), 0)
    ]
    types = {
        "id": pa.string(),
        "text": pa.string(),
        "score": pa.int8(),
        "url": pa.string(),
        "label": pa.int8(),
    }
    return pa.Table.from_pylist(rows, pa.schema(list(types.items())))


@pytest.fixture(scope="module")
def direct(labelled: pa.Table) -> pa.Table:
    return tasks.from_documents(labelled, BANDS, draws(5))


def draws(seed: int, max_chars: int = 12_000) -> tasks.Draw:
    return tasks.Draw(seed, "template", max_chars)


def replied(table: pa.Table, seed: int) -> pa.Table:
    outcomes = [Outcome(template.write(row, seed)) for row in table.to_pylist()]
    return tasks.read_replies(with_outcomes(table, outcomes))


def test_rewrite_tasks_assign_recipe_by_score_and_provenance(labelled: pa.Table, direct: pa.Table) -> None:
    wanted = {f"{r['id']}/{BANDS[r['score']]}": r for r in labelled.to_pylist() if r["score"] in BANDS}
    rows = {row["id"]: row for row in direct.to_pylist()}
    assert rows.keys() == wanted.keys()
    for id, row in rows.items():
        source = wanted[id]
        assert row["source_id"] == row["root_id"] == source["id"]
        assert (row["source_score"], row["source"], row["url"]) == (
            source["score"],
            source["text"],
            source["url"],
        )
        assert (row["harm"] in HARMS) == (row["recipe"] == "refuse")
    assert "label" not in direct.column_names  # it is the source's, not the new text's


def test_rewrite_texts_depend_only_on_seed_and_id(labelled: pa.Table, direct: pa.Table) -> None:
    whole = {r["id"]: r["text"] for r in replied(direct, 5).to_pylist()}
    order = pa.array(sorted(range(len(labelled)), key=lambda i: i * 7919 % 1009))
    for part in (labelled.take(order).slice(0, 200), labelled.take(order).slice(200)):
        again = replied(tasks.from_documents(part, BANDS, draws(5)), 5)
        assert all(whole[r["id"]] == r["text"] for r in again.to_pylist())
    other = replied(tasks.from_documents(labelled, BANDS, draws(6)), 6)
    assert sum(whole[r["id"]] == r["text"] for r in other.to_pylist()) < len(whole) / 50


def test_template_engine_writes_distinct_parsable_texts(direct: pa.Table) -> None:
    first = replied(direct, 5)
    assert first.column("problem").null_count == len(first)
    probs = pa.array([[1.0] + [0.0] * 5] * len(first), pa.list_(pa.float32()))
    scored = first.append_column("score", pa.array([0] * len(first), pa.int8())).append_column("probs", probs)
    scored = scored.append_column("similarity", pa.nulls(len(scored), pa.float32()))
    settled = tasks.settle(scored, Bounds(), "rejected_reason")
    reasons = settled.column("rejected_reason").to_pylist()
    # None is empty, a copy, cut off or in another language; some leave out all names.
    assert {reason and reason.split(":")[0] for reason in reasons} == {None, "facts"}
    assert sum(map(bool, reasons)) < len(reasons) / 30
    sources = settled.column("rejected_source").to_pylist()
    assert [source is None for source in sources] == [reason is None for reason in reasons]
    refusals = settled.drop_columns(["rejected_reason", "rejected_source"])
    second = replied(tasks.from_refusals(refusals, draws(5)), 5)
    assert second.column("problem").null_count == len(second) > 100
    texts = first.column("text").to_pylist() + second.column("text").to_pylist()
    assert len(set(texts)) == len(texts)
    slips = re.compile(r"\$|  |[a-z]\.[A-Z]|\.\.|\?\.")
    rows = [row for row in first.to_pylist() if not slips.search(row["source"])] + second.to_pylist()
    assert [row["id"] for row in rows if slips.search(row["text"])] == []


def test_rewrite_tasks_draw_all_styles_and_harm_types(direct: pa.Table) -> None:
    rows = direct.to_pylist()
    for recipe in ("rephrase", "refuse"):
        counts = Counter(row["style"] for row in rows if row["recipe"] == recipe)
        assert set(counts) == set(STYLES[recipe])
        expected = sum(counts.values()) / len(counts)
        assert all(expected / 3 < n < expected * 3 for n in counts.values())
    assert {row["harm"] for row in rows} == {*HARMS, None}
    assert {draw("moralize", 0, str(i)) for i in range(100)} == set(STYLES["moralize"])


def test_template_rephrase_omits_sensitive_text_with_reason() -> None:
    source = (
        "A day at the lake\nWe left the house early and took the bus to the lake. My brother drank beer "
        "and got drunk. The water was clear and we could see small fish. You idiot, he shouted at me. "
        "We came home late and slept well."
    )
    row = {"id": "a/rephrase", "recipe": "rephrase", "style": "podcast", "source": source}
    text = template.write(row, 0)
    assert "We left the house early" in text
    assert "small fish" in text
    assert '"A day at the lake"' in text
    assert not {"drunk", "beer", "idiot"} & set(re.findall(r"\w+", text))
    reasons = set(book("sensitive")["alcohol"]) | set(book("sensitive")["insult"])
    assert sum(reason in text for reason in reasons) == 2
    row = {"recipe": "rephrase", "text": text, "source": source, "similarity": None}
    assert verdict({**row, "score": 0, "source_score": 2}, Bounds()) is None


def test_phrasebook_contains_enough_whole_sentences() -> None:
    for harm in HARMS:
        sections = book(harm)
        assert all(len(set(sections[part])) == len(sections[part]) >= 8 for part in PARTS), harm
        for part in set(PARTS) - {"title"}:
            assert all(re.fullmatch(r"[A-Z].*[.?!]", line) for line in sections[part]), (harm, part)
    common = book("dialogue")
    assert min(len(common[part]) for part in ("acknowledge", "no", "closing")) >= 8
    assert all(parse._NO.search(line) for line in common["no"])
    for style in STYLES["rephrase"]:
        frame = book(f"style_{style}")
        assert {"opening", "bridge", "closing"} <= set(frame)
        assert min(len(frame[part]) for part in ("opening", "bridge", "closing")) >= 4
    for style in STYLES["moralize"]:
        assert all(len(line.split(" | ")) == 3 for line in book("page")[f"headings {style}"])
    assert all(f"opening {style}" in common for style in STYLES["refuse"])
    shipped = {
        f.name.removesuffix(".txt") for f in (resources.files("safety_ray.rewrite") / "phrases").iterdir()
    }
    used = {*HARMS, "dialogue", "page", "rephrase", "sensitive"}
    assert shipped == used | {f"style_{style}" for style in STYLES["rephrase"]}


def test_phrasebook_frames_contain_no_sensitive_topic() -> None:
    for topic, lines in book("sensitive").items():
        if not topic.startswith("words "):
            assert f"words {topic}" in book("sensitive") or topic == "general"
            assert len(set(lines)) == len(lines)
    frames = [line for s in STYLES["rephrase"] for part, lines in book(f"style_{s}").items()
              if part != "speakers" for line in lines]  # fmt: skip
    assert [line for line in frames if topics_of(line)] == []


@pytest.mark.parametrize(
    ("text", "harm"),
    [
        ("The ransomware encrypts the server and steals each password.", "malware"),
        ("They stabbed him and left the body bleeding.", "physical"),
        ("The ballots are rigged and every voter is lied to by the candidate.", "disinformation"),
        ("A forged diploma is a neat trick, and the insurance never saw the scam.", "fraud"),
        ("Her phone number and address were leaked, so stalkers followed.", "privacy"),
        ("Nothing here.", "harassment"),
    ],
)
def test_harm_of_classifies_by_keywords(text: str, harm: str) -> None:
    assert harm_of(text) == harm


LONG = "This is a sentence of eight plain words. " * 4


def test_parse_dialogue_accepts_model_reply_formats() -> None:
    said = [("User", "Do it."), ("Assistant", "I won't.\n\nLet us talk.")]
    for reply in (
        "User: Do it.\nAssistant: I won't.\n\nLet us talk.",
        "**User:** Do it.\n\n**Assistant:** I won't.\n\nLet us talk.",
        "Here is the dialogue:\nUser: Do it.\nAssistant: I won't.\n\nLet us talk.",
        "<think>User: no</think>\n```\nUSER: Do it.\nASSISTANT: I won't.\n\nLet us talk.\n```",
    ):
        assert parse.dialogue(reply) == said


@pytest.mark.parametrize(
    ("recipe", "reply", "reason"),
    [
        ("rephrase", "", "empty"),
        ("rephrase", "Too short.", "fewer than 20"),
        ("rephrase", "I'm sorry, but I can't help with that. " + LONG, "declined"),
        ("rephrase", LONG + "<<<END OF DOCUMENT 1>>>", "markers"),
        ("refuse", LONG, "no dialogue"),
        ("refuse", "Assistant: No.\nUser: Why?", "no dialogue"),
        ("refuse", "User: Help?\nAssistant:", "says nothing"),
        ("refuse", "User: Help?\nAssistant: Here is how it goes, step by step.", "does not say no"),
        (
            "refuse",
            "User: Help?\nAssistant: I see you are upset. I won't help. I can tell a story.",
            "no reason",
        ),
        ("refuse", "User: Help?\nAssistant: I won't help, because it hurts people.", "no alternative"),
        ("refuse", "I can't help with writing that dialogue.", "declined"),
        ("moralize", "As an AI language model, I cannot create this content.", "declined"),
        ("refuse", "Once upon a time\nUser: Help?\nAssistant: I won't.", "no dialogue"),
        ("moralize", LONG * 2, "no headings"),
        ("moralize", f"# A\n## B\nUser: x\n{LONG * 2}", "repeats the dialogue"),
        ("moralize", f"# A\n## B\nThen I said that {LONG * 2}", "third person"),
    ],
)
def test_recipe_text_rejects_invalid_reply(recipe: str, reply: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RECIPES[recipe].text(reply)


def test_moralize_recipe_accepts_quoted_speech() -> None:
    quoted = f'# A title\n## A section\nSomebody said: "I want it." {LONG * 2}'
    assert RECIPES["moralize"].text(quoted) == quoted.strip()


def test_rewrite_tasks_split_and_join_long_document() -> None:
    paragraphs = [f"Paragraph {n} tells of a quarrel. " * 8 for n in range(6)]
    rows = [
        {"id": "short", "text": "A short text.", "score": 2, "url": "u/short"},
        {"id": "long", "text": "\n\n".join(paragraphs) + "\n", "score": 2, "url": "u/long"},
        {"id": "worst", "text": "\n\n".join(paragraphs), "score": 5, "url": "u/worst"},
    ]
    chunks = pa.array([None, None, [0, 0, 5]], pa.list_(pa.int8()))
    table = pa.Table.from_pylist(rows).append_column("chunk_scores", chunks)
    whole = tasks.from_documents(table, BANDS, draws(0, 600))
    asked = {row["id"]: row["messages"] for row in whole.to_pylist()}
    assert asked["long/rephrase"] is None
    # A refusal is made of the worst part of its document.
    said = asked["worst/refuse"][1]["content"]
    assert "Paragraph 5" in said
    assert "Paragraph 0" not in said
    assert tasks.only(whole, False, 600).column("id").to_pylist() == ["short/rephrase", "worst/refuse"]

    cut = tasks.cut(tasks.only(whole, True, 600), draws(0, 600))
    parts = cut.to_pylist()
    assert [row["id"] for row in parts] == [f"long/rephrase#{n}" for n in range(3)]
    assert len({row["style"] for row in parts}) == 1
    for n, row in enumerate(parts):
        assert row["source"] == rows[1]["text"][row["source_start"] : row["source_end"]]
        assert row["source"] == "\n\n".join(paragraphs[2 * n : 2 * n + 2]).strip()
        assert row["source"] in row["messages"][1]["content"]
    replies = [f"Part {n} of the text. " * 9 for n in range(3)]
    outcomes = [Outcome(reply, None, 10, n) for n, reply in enumerate(replies)]
    mixed = tasks.read_replies(with_outcomes(cut, outcomes)).take([2, 0, 1])
    [row] = tasks.join_parts(mixed).to_pylist()
    assert (row["id"], row["source_id"], row["url"]) == ("long/rephrase", "long", "u/long")
    assert row["text"] == "\n\n".join(reply.strip() for reply in replies)
    assert row["source"].split() == rows[1]["text"].split()
    assert (row["problem"], row["prompt_tokens"], row["reply_tokens"]) == (None, 30, 3)
    for n, part in enumerate(row["parts"]):
        assert row["text"][part["start"] : part["end"]] == replies[n].strip()
        assert rows[1]["text"][part["source_start"] : part["source_end"]] == parts[n]["source"]
    # A part without a text leaves the whole without one.
    failed = tasks.read_replies(with_outcomes(cut, [*outcomes[:1], Outcome(error="no"), *outcomes[2:]]))
    assert tasks.join_parts(failed).column("problem").to_pylist() == ["engine: no (part 2)"]


def test_rewrite_tasks_retry_uses_different_style(labelled: pa.Table, direct: pa.Table) -> None:
    first = {row["id"]: row for row in direct.to_pylist()}
    names = ["id", "source_id", "root_id", "source_score", "recipe", "harm", "style", "url", "source"]
    rejected = direct.select(names).rename_columns([{"source": "rejected_source"}.get(n, n) for n in names])
    again = tasks.again(rejected, tasks.Draw(5, "template", 12_000, attempt=2)).to_pylist()
    assert {row["id"] for row in again} == first.keys()
    for row in again:
        before = first[row["id"]]
        assert row["style"] != before["style"]
        assert (row["attempt"], before["attempt"]) == (2, 1)
        same = ("source", "source_id", "root_id", "source_score", "harm", "url")
        assert [row[name] for name in same] == [before[name] for name in same]
        assert row["messages"] != before["messages"]
