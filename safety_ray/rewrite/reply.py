"""Clean an engine's reply, and reject it if the engine declined to write it."""

from __future__ import annotations

import re

DECLINED = "declined: the engine declined to write it"
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_PREFACE = re.compile(
    r"^(sure|certainly|of course|okay|here is|here's|here are|below is)\b[^\n]*:\s*\n", re.I
)
# Only at the beginning: "I can't believe my luck" within a story does not decline anything.
_DECLINE = re.compile(
    r"""^\W*
    (?:(?:i(?:['’]m|\ am)\ (?:really\ |very\ |truly\ )?sorry|sorry|i\ apologi[sz]e|unfortunately)\b
       [^.\n]{0,40}?\b)?
    (?:as\ an?\ (?:ai|language\ model)\b
      |i\ (?:can(?:['’]t|not|\ not)|won['’]t|will\ not|am\ (?:unable|not\ able)|must\ (?:decline|refuse))\b\ ?
       (?:to\ )?(?:help|assist|fulfil|complete|comply|provide|create|write|rewrite|generate|continue|produce
         |process|engage|do\ (?:this|that)|discuss|with|$|[.,]))""",
    re.I | re.X,
)


def clean(reply: str) -> str:
    """Return the reply without reasoning, code fence and preface.

    Raises ValueError if nothing remains, the engine declined, or the reply repeats the prompt's markers.
    """
    text = _THOUGHT.sub("", reply).strip()
    fenced = _FENCE.match(text)
    text = _PREFACE.sub("", fenced.group(1) if fenced else text).strip()
    if not text:
        raise ValueError("the reply is empty")
    if _DECLINE.match(text):
        raise ValueError(DECLINED)
    if "<<<DOCUMENT" in text or "<<<END OF DOCUMENT" in text:
        raise ValueError("the reply repeats the prompt's markers")
    return text


def require_words(text: str, minimum: int) -> str:
    """Return `text`. Raises ValueError if it has fewer than `minimum` words."""
    if len(text.split()) < minimum:
        raise ValueError(f"the text has fewer than {minimum} words")
    return text
