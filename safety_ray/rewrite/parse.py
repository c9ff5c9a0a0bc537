"""What an engine replied becomes the text of a row; ValueError gives the reason where it is none."""

from __future__ import annotations

import re

USER, ASSISTANT = "User", "Assistant"
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_PREFACE = re.compile(
    r"^(sure|certainly|of course|okay|here is|here's|here are|below is)\b[^\n]*:\s*\n", re.I
)
_DECLINED = re.compile(r"^(i'm sorry|i am sorry|sorry,|i can(no|')t|i am unable|i'm unable|as an ai\b)", re.I)
_TURN = re.compile(r"^\W{0,3}(user|assistant)\W{0,3}:\**[ \t]*", re.I | re.M)
_HEADING = re.compile(r"^#{1,4} \S", re.M)
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”')
_FIRST_PERSON = re.compile(r"\b(I|I'm|I'll|I've|I'd)\b")


def prose(reply: str) -> str:
    """A rephrased text: at least 20 words that are no refusal of the engine itself."""
    text = _clean(reply)
    if _DECLINED.match(text):
        raise ValueError("the engine declined to write it")
    return _long_enough(text, 20)


def dialogue(reply: str) -> list[tuple[str, str]]:
    """(role, what is said) of a refusal: User and Assistant in turns, the Assistant last."""
    pieces = _TURN.split(_clean(reply))
    before, turns = pieces[0], pieces[1:]
    said = [
        (USER if role.lower() == "user" else ASSISTANT, words.strip().strip("*").strip())
        for role, words in zip(turns[::2], turns[1::2], strict=True)
    ]
    roles = [role for role, _ in said]
    if before.strip() or not roles or roles != [USER, ASSISTANT] * (len(roles) // 2):
        raise ValueError("the reply is no dialogue of User and Assistant in turns")
    if not all(words for _, words in said):
        raise ValueError("somebody in the dialogue says nothing")
    return said


def page(reply: str) -> str:
    """A page of moral education: headings, no speakers' lines, third person, at least 40 words."""
    text = _clean(reply)
    if _DECLINED.match(text):
        raise ValueError("the engine declined to write it")
    if len(_HEADING.findall(text)) < 2:
        raise ValueError("the page has no headings")
    if _TURN.search(text):
        raise ValueError("the page repeats the dialogue instead of retelling it")
    if _FIRST_PERSON.search(_QUOTED.sub("", text)):
        raise ValueError("the page is not in the third person")
    return _long_enough(text, 40)


def _clean(reply: str) -> str:
    text = _THOUGHT.sub("", reply).strip()
    fenced = _FENCE.match(text)
    text = _PREFACE.sub("", fenced.group(1) if fenced else text).strip()
    if not text:
        raise ValueError("the reply is empty")
    if "<<<DOCUMENT" in text or "<<<END OF DOCUMENT" in text:
        raise ValueError("the reply repeats the prompt's markers")
    return text


def _long_enough(text: str, least: int) -> str:
    if len(text.split()) < least:
        raise ValueError(f"the text has fewer than {least} words")
    return text
