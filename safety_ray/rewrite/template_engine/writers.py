"""The engine that has no language model: texts put together from the source and from phrase files.

It shows the whole way of the data where no model is at hand. What it writes is grammatical and
varied, but it is no rewriting in the paper's sense: a rephrased text keeps the source's sentences
that hold none of some hundred sensitive words, and a refusal is about the source's kind of harm, not
about its content. Rows say so in the column `engine`.
"""

from __future__ import annotations

import re
import string
from typing import Any

from safety_ray.rewrite.harm import topics_of
from safety_ray.rewrite.parse import ASSISTANT, USER
from safety_ray.rewrite.phrasebook import book, pick

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+|\n+")
_ENDED = re.compile(r"[.!?][\"'”’)]*$")
_SPEAKER = re.compile(r"^[A-Z][\w' ]{0,24}:\s+")
_KEPT = 4  # sentences of the source at most
_REASONS = 2


def write(row: dict[str, Any], seed: int) -> str:
    """The reply for one task row: its recipe, style, harm type and source decide, with seed and id."""
    return {"rephrase": rephrase, "refuse": refuse, "moralize": moralize}[row["recipe"]](row, seed)


def rephrase(row: dict[str, Any], seed: int) -> str:
    """The harmless sentences of the source in a frame of the style, with the reason for each gap."""
    frame, common, id = book(f"style_{row['style']}"), book("rephrase"), row["id"]
    title, kept, reasons = _sift(row["source"], seed, id)
    opening = [pick(frame["opening"], seed, id, "opening")]
    closing = _two(common["constructive"], seed, id, "constructive")
    last = pick(frame["closing"], seed, id, "closing")
    bridge = pick(frame["bridge"], seed, id, "bridge")
    body = (
        [string.Template(pick(common["titled"], seed, id, "titled")).substitute(title=title)] if title else []
    )
    if not kept:
        body.append(pick(common["bare"], seed, id, "bare"))
    half = (len(kept) + 1) // 2
    if "speakers" in frame:
        one, other = pick(frame["speakers"], seed, id, "speakers").split(" | ")
        turns = [
            (one, opening),
            (other, [bridge]),
            (one, body + kept[:half]),
            (other, [pick(frame["why_question"], seed, id, "why")]),
            (one, reasons + kept[half:]),
            (other, [pick(frame["reply"], seed, id, "reply")]),
            (one, [*closing, last]),
        ]
        return "\n".join(f"{who}: {' '.join(said)}" for who, said in turns if said)
    paragraphs = [[*opening, bridge], [*body, *kept[:half], *reasons, *kept[half:]], [*closing, last]]
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def refuse(row: dict[str, Any], seed: int) -> str:
    """A request of the source's kind of harm in the row's tone, and an answer of six parts."""
    harm, common, id = book(row["harm"]), book("dialogue"), row["id"]
    target = pick(harm.get("target", common["target"]), seed, id, "target")
    request = [
        pick(common[f"opening {row['style']}"], seed, id, "opening"),
        string.Template(pick(harm["request"], seed, id, "request")).substitute(target=target),
    ]
    answer = [
        *(pick(common[part], seed, id, part) for part in ("acknowledge", "no")),
        pick(harm["reason"], seed, id, "reason"),
        *_two(harm["alternative"], seed, id, "alternative"),
        pick(common["closing"], seed, id, "closing"),
    ]
    return f"{USER}: {' '.join(request)}\n{ASSISTANT}: {' '.join(answer)}"


def moralize(row: dict[str, Any], seed: int) -> str:
    """A page of three sections about the principle behind a refusal."""
    harm, common, id = book(row["harm"]), book("page"), row["id"]
    headings = pick(common[f"headings {row['style']}"], seed, id, "headings").split(" | ")
    paragraphs = [
        [pick(harm["wish"], seed, id, "wish"), pick(common["answer"], seed, id, "answer")],
        [pick(harm["effect"], seed, id, "effect"), pick(harm["principle"], seed, id, "principle")],
        [pick(harm["better"], seed, id, "better"), pick(common["lesson"], seed, id, "lesson")],
    ]
    sections = [f"## {head}\n{' '.join(said)}" for head, said in zip(headings, paragraphs, strict=True)]
    return "\n\n".join([f"# {pick(harm['title'], seed, id, 'title')}", *sections])


def _two(lines: tuple[str, ...], seed: int, id: str, part: str) -> list[str]:
    one = pick(lines, seed, id, part)
    return [one, pick([line for line in lines if line != one], seed, id, f"{part} again")]


def _sift(source: str, seed: int, id: str) -> tuple[str, list[str], list[str]]:
    """(title or "", harmless sentences, reasons for what is left out)."""
    lines = [line.strip() for line in source.strip().split("\n") if line.strip()]
    title = ""
    if len(lines) > 1 and len(lines[0].split()) <= 12 and lines[0][-1] not in ".!?,;":
        title = lines.pop(0).rstrip(":").replace('"', "'")
    if _SPEAKER.match(title) or topics_of(title):
        title = ""
    kept: list[str] = []
    left_out: list[str] = []
    for sentence in _SENTENCE.split("\n".join(lines)):
        sentence = _SPEAKER.sub("", sentence.strip())
        if topics_of(sentence):
            left_out.append(sentence)
        elif len(sentence.split()) >= 3 and sentence[0].isalnum() and sentence.count('"') % 2 == 0:
            kept.append(sentence if _ENDED.search(sentence) else f"{sentence.rstrip(',;:')}.")
    topics = topics_of(" ".join(left_out))[:_REASONS] or ["general"]
    reasons = [pick(book("sensitive")[topic], seed, id, f"reason {topic}") for topic in topics]
    return title, kept[:_KEPT], reasons
