"""Parsers, checks, phrases and the engine without a language model: no Ray."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources

import pyarrow as pa
import pytest

from safety_ray.corpus.seeds import load_seeds
from safety_ray.corpus.stage import documents
from safety_ray.rewrite import parse, tasks, template
from safety_ray.rewrite.harm import HARMS, harm_of, topics_of
from safety_ray.rewrite.names import cast
from safety_ray.rewrite.phrasebook import book
from safety_ray.rewrite.recipes import _NO, RECIPES, verdict
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
    return tasks.from_documents(labelled, BANDS, seed=5, engine="template")


def replied(table: pa.Table, seed: int) -> pa.Table:
    replies = [template.write(row, seed) for row in table.to_pylist()]
    table = table.append_column("reply", pa.array(replies, pa.string()))
    return tasks.read_replies(table.append_column("engine_error", pa.nulls(len(table), pa.string())), seed)


def test_each_score_gets_its_recipe_and_every_task_its_trace(labelled: pa.Table, direct: pa.Table) -> None:
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


def test_texts_depend_on_seed_and_id_alone(labelled: pa.Table, direct: pa.Table) -> None:
    whole = {r["id"]: r["text"] for r in replied(direct, 5).to_pylist()}
    order = pa.array(sorted(range(len(labelled)), key=lambda i: i * 7919 % 1009))
    for part in (labelled.take(order).slice(0, 200), labelled.take(order).slice(200)):
        again = replied(tasks.from_documents(part, BANDS, seed=5, engine="template"), 5)
        assert all(whole[r["id"]] == r["text"] for r in again.to_pylist())
    other = replied(tasks.from_documents(labelled, BANDS, seed=6, engine="template"), 6)
    assert sum(whole[r["id"]] == r["text"] for r in other.to_pylist()) < len(whole) / 50


def test_the_template_engine_writes_texts_that_parse_and_differ(direct: pa.Table) -> None:
    first = replied(direct, 5)
    assert first.column("problem").null_count == len(first)
    probs = pa.array([[1.0] + [0.0] * 5] * len(first), pa.list_(pa.float32()))
    scored = first.append_column("score", pa.array([0] * len(first), pa.int8())).append_column("probs", probs)
    kept = tasks.settle(scored, "set_aside")
    assert kept.column("set_aside").null_count == len(kept)  # none is empty or a copy
    refusals = kept.drop_columns(["set_aside"])
    second = replied(tasks.from_refusals(refusals, seed=5, engine="template"), 5)
    assert second.column("problem").null_count == len(second) > 100
    texts = first.column("text").to_pylist() + second.column("text").to_pylist()
    assert len(set(texts)) == len(texts)
    slips = re.compile(r"\$|  |[a-z]\.[A-Z]|\.\.|\?\.")
    rows = [row for row in first.to_pylist() if not slips.search(row["source"])] + second.to_pylist()
    assert [row["id"] for row in rows if slips.search(row["text"])] == []


def test_all_styles_and_harm_types_are_drawn(direct: pa.Table) -> None:
    rows = direct.to_pylist()
    for recipe in ("rephrase", "refuse"):
        counts = Counter(row["style"] for row in rows if row["recipe"] == recipe)
        assert set(counts) == set(STYLES[recipe])
        expected = sum(counts.values()) / len(counts)
        assert all(expected / 3 < n < expected * 3 for n in counts.values())
    assert {row["harm"] for row in rows} == {*HARMS, None}
    assert {draw("moralize", 0, str(i)) for i in range(100)} == set(STYLES["moralize"])


def test_rephrasing_leaves_out_what_is_sensitive_and_says_why() -> None:
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
    assert verdict(text, source, 0, 2) is None


def test_phrases_are_whole_sentences_and_many() -> None:
    for harm in HARMS:
        sections = book(harm)
        assert all(len(set(sections[part])) == len(sections[part]) >= 8 for part in PARTS), harm
        for part in set(PARTS) - {"title"}:
            assert all(re.fullmatch(r"[A-Z].*[.?!]", line) for line in sections[part]), (harm, part)
    common = book("dialogue")
    assert min(len(common[part]) for part in ("acknowledge", "no", "closing")) >= 8
    assert all(_NO.search(line) for line in common["no"])
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
    used = {*HARMS, "dialogue", "names", "page", "rephrase", "sensitive"}
    assert shipped == used | {f"style_{style}" for style in STYLES["rephrase"]}


def test_no_phrase_of_a_rephrased_text_is_itself_left_out() -> None:
    for topic, lines in book("sensitive").items():
        if not topic.startswith("words "):
            assert f"words {topic}" in book("sensitive") or topic == "general"
            assert len(set(lines)) == len(lines)
    frames = [line for s in STYLES["rephrase"] for part, lines in book(f"style_{s}").items()
              if part != "speakers" for line in lines]  # fmt: skip
    assert [line for line in frames if topics_of(line)] == []


def test_names_are_two_varied_persons() -> None:
    pairs = [cast(1, str(i)) for i in range(2000)]
    assert all(one != other for one, other in pairs)
    counts = Counter(name for pair in pairs for name in pair)
    assert len(counts) > 140
    assert max(counts.values()) < 4000 / len(counts) * 3


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
def test_harm_types_are_told_by_words(text: str, harm: str) -> None:
    assert harm_of(text) == harm


LONG = "This is a sentence of eight plain words. " * 4


def test_dialogues_are_read_in_the_forms_that_models_use() -> None:
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
        ("rephrase", "I'm sorry, but " + LONG, "declined"),
        ("rephrase", LONG + "<<<END OF DOCUMENT 1>>>", "markers"),
        ("refuse", LONG, "no dialogue"),
        ("refuse", "Assistant: No.\nUser: Why?", "no dialogue"),
        ("refuse", "User: Help?\nAssistant:", "says nothing"),
        ("refuse", "User: Help?\nAssistant: Here is how it goes, step by step.", "does not say no"),
        ("refuse", "Once upon a time\nUser: Help?\nAssistant: I won't.", "no dialogue"),
        ("moralize", LONG * 2, "no headings"),
        ("moralize", f"# A\n## B\nUser: x\n{LONG * 2}", "repeats the dialogue"),
        ("moralize", f"# A\n## B\nThen I said that {LONG * 2}", "third person"),
    ],
)
def test_replies_that_are_no_text_are_named(recipe: str, reply: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RECIPES[recipe].text(reply, 0, "a")


def test_role_names_give_way_to_the_cast() -> None:
    text = RECIPES["refuse"].text("User: Do it.\nAssistant: I won't.", 3, "row")
    one, other = cast(3, "row")
    assert text == f"{one}: Do it.\n\n{other}: I won't."
    quoted = f'# A title\n## A section\nSomebody said: "I want it." {LONG * 2}'
    assert RECIPES["moralize"].text(quoted, 0, "a") == quoted.strip()


def test_a_text_is_kept_only_if_it_is_new_and_safer() -> None:
    assert verdict("A new text.", "The source.", 2, 3) is None
    assert "not lower" in str(verdict("A new text.", "The source.", 3, 3))
    assert "copy" in str(verdict("Well. THE source!", "The source.", 0, 3))
    assert "empty" in str(verdict(" ", "The source.", 0, 3))
