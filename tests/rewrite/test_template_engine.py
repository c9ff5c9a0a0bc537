"""The engine without a language model: its phrases, and the texts made from them."""

from __future__ import annotations

import re
from importlib import resources

import pyarrow as pa
import pytest
from documents import STYLES, drafts_from_template, options

from safety_ray.rewrite import drafts, tasks
from safety_ray.rewrite.acceptance import Bounds, rejection_reason
from safety_ray.rewrite.harm import HARMS, harm_of, topics_of
from safety_ray.rewrite.recipes import RECIPES, write_from_template
from safety_ray.rewrite.recipes.moralize.parser import parse_page
from safety_ray.rewrite.recipes.refuse.parser import parse_refusal, refuses
from safety_ray.rewrite.template_engine.phrasebook import phrases, style_phrases

SECTIONS = ("request", "reason", "alternative", "title", "wish", "effect", "principle", "better")
FRAME = ("opening", "bridge", "closing")


def test_template_engine_writes_distinct_parsable_texts(direct: pa.Table) -> None:
    first = drafts_from_template(direct, 5)
    assert first.column("problem").null_count == len(first)
    probs = pa.array([[1.0] + [0.0] * 5] * len(first), pa.list_(pa.float32()))
    scored = first.append_column("score", pa.array([0] * len(first), pa.int8())).append_column("probs", probs)
    scored = scored.append_column("similarity", pa.nulls(len(scored), pa.float32()))
    decided = drafts.accept_drafts(scored, Bounds(), "rejected_reason")
    reasons = decided.column("rejected_reason").to_pylist()
    # None is empty, a copy, cut off or in another language; a few leave out all names.
    assert {reason and reason.split(":")[0] for reason in reasons} == {None, "facts"}
    assert sum(map(bool, reasons)) < len(reasons) / 30
    sources = decided.column("rejected_source").to_pylist()
    assert [source is None for source in sources] == [reason is None for reason in reasons]
    refusals = decided.drop_columns(["rejected_reason", "rejected_source"])
    second = drafts_from_template(tasks.from_accepted(refusals, "moralize", options(5)), 5)
    assert second.column("problem").null_count == len(second) > 100
    texts = first.column("text").to_pylist() + second.column("text").to_pylist()
    assert len(set(texts)) == len(texts)
    slips = re.compile(r"\$|  |[a-z]\.[A-Z]|\.\.|\?\.")
    rows = [row for row in first.to_pylist() if not slips.search(row["source"])] + second.to_pylist()
    assert [row["id"] for row in rows if slips.search(row["text"])] == []


def test_template_rephrase_omits_sensitive_text_with_reason() -> None:
    source = (
        "A day at the lake\nWe left the house early and took the bus to the lake. My brother drank beer "
        "and got drunk. The water was clear and we could see small fish. You idiot, he shouted at me. "
        "We came home late and slept well."
    )
    row = {"id": "a/rephrase", "recipe": "rephrase", "style": "podcast", "source": source}
    text = write_from_template(row, 0)
    assert "We left the house early" in text
    assert "small fish" in text
    assert '"A day at the lake"' in text
    assert not {"drunk", "beer", "idiot"} & set(re.findall(r"\w+", text))
    reasons = set(phrases("sensitive")["alcohol"]) | set(phrases("sensitive")["insult"])
    assert sum(reason in text for reason in reasons) == 2
    row = {"recipe": "rephrase", "text": text, "source": source, "similarity": None}
    assert rejection_reason({**row, "score": 0, "source_score": 2}, Bounds()) is None


def test_template_engine_writes_style_without_phrases() -> None:
    row = {"id": "a", "style": "haiku", "source": "We went home.", "harm": "fraud"}
    text = write_from_template(row | {"recipe": "rephrase"}, 0)
    assert "We went home." in text
    assert any(opening in text for opening in phrases("style_any")["opening"])
    parse_refusal(write_from_template(row | {"recipe": "refuse"}, 0))
    parse_page(write_from_template(row | {"recipe": "moralize"}, 0))


def test_phrases_are_enough_whole_sentences() -> None:
    for harm in HARMS:
        sections = phrases(harm)
        assert all(len(set(sections[name])) == len(sections[name]) >= 8 for name in SECTIONS), harm
        for name in set(SECTIONS) - {"title"}:
            assert all(re.fullmatch(r"[A-Z].*[.?!]", line) for line in sections[name]), (harm, name)
    common = phrases("dialogue")
    assert min(len(common[name]) for name in ("acknowledge", "no", "closing")) >= 8
    assert all(map(refuses, common["no"]))
    for style in (*RECIPES["rephrase"].styles, "any"):
        frame = style_phrases(style)
        assert set(FRAME) <= set(frame)
        assert min(len(frame[name]) for name in FRAME) >= 4
    headings = [lines for name, lines in phrases("page").items() if name.startswith("headings ")]
    assert all(len(line.split(" | ")) == 3 for lines in headings for line in lines)


def test_phrase_files_and_sections_belong_to_styles() -> None:
    folder = resources.files("safety_ray.rewrite.template_engine") / "phrases"
    shipped = {file.name.removesuffix(".txt") for file in folder.iterdir()}
    common = {*HARMS, "dialogue", "page", "rephrase", "sensitive", "style_any"}
    assert common <= shipped
    frames = {name.removeprefix("style_") for name in shipped - common}
    assert STYLES["rephrase"] <= frames <= set(RECIPES["rephrase"].styles)
    for name, section, recipe in (("dialogue", "opening ", "refuse"), ("page", "headings ", "moralize")):
        styles = {key.removeprefix(section) for key in phrases(name) if key.startswith(section)}
        assert STYLES[recipe] <= styles <= set(RECIPES[recipe].styles)


def test_phrases_contain_no_sensitive_topic() -> None:
    for topic, lines in phrases("sensitive").items():
        if not topic.startswith("words "):
            assert f"words {topic}" in phrases("sensitive") or topic == "general"
            assert len(set(lines)) == len(lines)
    frames = [line for style in (*RECIPES["rephrase"].styles, "any") for name, lines in
              style_phrases(style).items() if name != "speakers" for line in lines]  # fmt: skip
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
