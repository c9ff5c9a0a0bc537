"""What an engine replied becomes the text of a row; ValueError gives the reason where it is none."""

from __future__ import annotations

import re

USER, ASSISTANT = "User", "Assistant"
DECLINED = "declined: the engine would not write it"
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_PREFACE = re.compile(
    r"^(sure|certainly|of course|okay|here is|here's|here are|below is)\b[^\n]*:\s*\n", re.I
)
# A rewriter that declines says so at once; "I can't believe my luck" in a story is none.
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
_TURN = re.compile(r"^\W{0,3}(user|assistant)\W{0,3}:\**[ \t]*", re.I | re.M)
_HEADING = re.compile(r"^#{1,4} \S", re.M)
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”')
_FIRST_PERSON = re.compile(r"\b(I|I'm|I'll|I've|I'd)\b")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
# The parts of a refusal, sentence by sentence. One that says no may hold the reason as well ("I won't,
# because..."); without such a word the reason is a statement that is neither about the two nor an offer.
_NO = re.compile(
    r"\b(won['’]?t|will not|can['’]?t|cannot|can not|unable to|not able to|not going to|refuse|decline"
    r"|say no|answer is no|no[,.!;])",
    re.IGNORECASE,
)
_BECAUSE = re.compile(
    r"\b(because|since|otherwise|so that|would|could|might|harm\w*|hurt\w*|danger\w*|illegal|crime"
    r"|risk\w*)\b",
    re.IGNORECASE,
)
_OF_THE_TWO = re.compile(
    r"\bi\b|answer is no|^\W*(you|we|it sounds|that sounds|thank|thanks|sorry|hello|hi|hey|let)\b", re.I
)
_I_OFFER = re.compile(
    r"\bi (can|could|would|am glad|am happy)\b(?!['’]t| not)|\bi['’](d|m (glad|happy))", re.I
)
_OFFER = re.compile(
    r"\b(instead|let me|let['’]?s|let us|(we|you|they) (can|could|might|may)|if you|please|try|consider"
    r"|reach out|talk to|ask (a|your)|could (help|sit|listen)|would you|what about|how about)"
    r"\b(?!['’]t| not)",
    re.IGNORECASE,
)
_REASON_WORDS = 5


def prose(reply: str) -> str:
    """A rephrased text: at least 20 words that are no refusal of the engine itself."""
    return _long_enough(_clean(reply), 20)


def refusal(reply: str) -> str:
    """A dialogue of `User: ...` and `Assistant: ...` in which harm is asked for and refused with a reason
    and an alternative."""
    said = dialogue(reply)
    answers = " ".join(words for role, words in said if role == ASSISTANT)
    sentences = [part for part in _SENTENCE.split(answers) if part]
    if not any(_NO.search(part) for part in sentences):
        raise ValueError("the answer in the dialogue does not say no")
    if not any(map(_is_reason, sentences)):
        raise ValueError("the answer in the dialogue gives no reason")
    if not any(map(_is_offer, sentences)):
        raise ValueError("the answer in the dialogue offers no alternative")
    return "\n\n".join(f"{role}: {words}" for role, words in said)


def _is_offer(sentence: str) -> bool:
    return bool(_I_OFFER.search(sentence) or (_OFFER.search(sentence) and not _NO.search(sentence)))


def _is_reason(sentence: str) -> bool:
    if sentence.endswith("?"):
        return False
    if _BECAUSE.search(sentence) and not _I_OFFER.search(sentence):
        return True
    about_others = not _OF_THE_TWO.search(sentence) and not _is_offer(sentence)
    return about_others and len(sentence.split()) >= _REASON_WORDS


def dialogue(reply: str) -> list[tuple[str, str]]:
    """(role, what is said): User and Assistant in turns, the Assistant last."""
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
    if _DECLINE.match(text):
        raise ValueError(DECLINED)
    if "<<<DOCUMENT" in text or "<<<END OF DOCUMENT" in text:
        raise ValueError("the reply repeats the prompt's markers")
    return text


def _long_enough(text: str, least: int) -> str:
    if len(text.split()) < least:
        raise ValueError(f"the text has fewer than {least} words")
    return text
