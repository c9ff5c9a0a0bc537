"""Write the reply to a task from the source and from phrase files, one function for each recipe."""

from __future__ import annotations

import re
import string
from typing import Any

from safety_ray.rewrite.dialogue import ASSISTANT, USER
from safety_ray.rewrite.harm import topics_of
from safety_ray.rewrite.template_engine.phrasebook import phrases, pick, style_phrases

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+|\n+")
_COMPLETE = re.compile(r"[.!?][\"'”’)]*$")
_SPEAKER = re.compile(r"^[A-Z][\w' ]{0,24}:\s+")
_MAX_SENTENCES = 4
"""sentences of the source in a rephrased text"""
_MAX_REASONS = 2
_MAX_TITLE_WORDS = 12


def write_rephrased(row: dict[str, Any], seed: int) -> str:
    """Frame the harmless sentences of the source in the row's style, with a reason for what is left out."""
    frame, common, id = style_phrases(row["style"]), phrases("rephrase"), row["id"]
    title, sentences, reasons = _sift(row["source"], seed, id)
    opening = [pick(frame["opening"], seed, id, "opening")]
    constructive = _pick_two(common["constructive"], seed, id, "constructive")
    closing = pick(frame["closing"], seed, id, "closing")
    bridge = pick(frame["bridge"], seed, id, "bridge")
    body = (
        [string.Template(pick(common["titled"], seed, id, "titled")).substitute(title=title)] if title else []
    )
    if not sentences:
        body.append(pick(common["bare"], seed, id, "bare"))
    half = (len(sentences) + 1) // 2
    if "speakers" in frame:
        first, second = pick(frame["speakers"], seed, id, "speakers").split(" | ")
        dialogue = [
            (first, opening),
            (second, [bridge]),
            (first, body + sentences[:half]),
            (second, [pick(frame["why_question"], seed, id, "why")]),
            (first, reasons + sentences[half:]),
            (second, [pick(frame["reply"], seed, id, "reply")]),
            (first, [*constructive, closing]),
        ]
        return "\n".join(f"{speaker}: {' '.join(lines)}" for speaker, lines in dialogue if lines)
    paragraphs = [
        [*opening, bridge],
        [*body, *sentences[:half], *reasons, *sentences[half:]],
        [*constructive, closing],
    ]
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def write_refusal(row: dict[str, Any], seed: int) -> str:
    """Write a request for the source's type of harm in the row's tone, and an answer of six elements."""
    harm, common, id = phrases(row["harm"]), phrases("dialogue"), row["id"]
    target = pick(harm.get("target", common["target"]), seed, id, "target")
    request = [
        pick(_of_style(common, "opening", row["style"]), seed, id, "opening"),
        string.Template(pick(harm["request"], seed, id, "request")).substitute(target=target),
    ]
    answer = [
        *(pick(common[section], seed, id, section) for section in ("acknowledge", "no")),
        pick(harm["reason"], seed, id, "reason"),
        *_pick_two(harm["alternative"], seed, id, "alternative"),
        pick(common["closing"], seed, id, "closing"),
    ]
    return f"{USER}: {' '.join(request)}\n{ASSISTANT}: {' '.join(answer)}"


def write_page(row: dict[str, Any], seed: int) -> str:
    """Write a page of three sections about the principle behind a refusal."""
    harm, common, id = phrases(row["harm"]), phrases("page"), row["id"]
    headings = pick(_of_style(common, "headings", row["style"]), seed, id, "headings").split(" | ")
    paragraphs = [
        [pick(harm["wish"], seed, id, "wish"), pick(common["answer"], seed, id, "answer")],
        [pick(harm["effect"], seed, id, "effect"), pick(harm["principle"], seed, id, "principle")],
        [pick(harm["better"], seed, id, "better"), pick(common["lesson"], seed, id, "lesson")],
    ]
    sections = [
        f"## {heading}\n{' '.join(lines)}" for heading, lines in zip(headings, paragraphs, strict=True)
    ]
    return "\n\n".join([f"# {pick(harm['title'], seed, id, 'title')}", *sections])


def _of_style(sections: dict[str, tuple[str, ...]], section: str, style: str) -> tuple[str, ...]:
    """Return the lines of `[section style]`, or of all styles if that style has no section of its own."""
    own = sections.get(f"{section} {style}")
    return own or tuple(
        line for name, lines in sections.items() if name.startswith(f"{section} ") for line in lines
    )


def _pick_two(lines: tuple[str, ...], seed: int, id: str, purpose: str) -> list[str]:
    first = pick(lines, seed, id, purpose)
    return [first, pick([line for line in lines if line != first], seed, id, f"{purpose} again")]


def _sift(source: str, seed: int, id: str) -> tuple[str, list[str], list[str]]:
    """Return the title or "", the harmless sentences, and the reasons for the sentences left out."""
    lines = [line.strip() for line in source.strip().split("\n") if line.strip()]
    title = ""
    if len(lines) > 1 and len(lines[0].split()) <= _MAX_TITLE_WORDS and lines[0][-1] not in ".!?,;":
        title = lines.pop(0).rstrip(":").replace('"', "'")
    if _SPEAKER.match(title) or topics_of(title):
        title = ""
    harmless: list[str] = []
    left_out: list[str] = []
    for sentence in _SENTENCE_END.split("\n".join(lines)):
        sentence = _SPEAKER.sub("", sentence.strip())
        if topics_of(sentence):
            left_out.append(sentence)
        elif len(sentence.split()) >= 3 and sentence[0].isalnum() and sentence.count('"') % 2 == 0:
            harmless.append(sentence if _COMPLETE.search(sentence) else f"{sentence.rstrip(',;:')}.")
    topics = topics_of(" ".join(left_out))[:_MAX_REASONS] or ["general"]
    reasons = [pick(phrases("sensitive")[topic], seed, id, f"reason {topic}") for topic in topics]
    return title, harmless[:_MAX_SENTENCES], reasons
