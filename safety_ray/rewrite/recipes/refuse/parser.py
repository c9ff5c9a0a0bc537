"""Read the reply to a refuse prompt: a dialogue in which a request is refused."""

from __future__ import annotations

import re

from safety_ray.rewrite.dialogue import ASSISTANT, format_dialogue, parse_dialogue
from safety_ray.rewrite.reply import clean

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
# The elements of a refusal, sentence by sentence. A sentence that refuses may have the reason as well ("I
# won't, because..."). Without such a word the reason is a statement that is neither about the two speakers
# nor an offer.
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
_ABOUT_SPEAKERS = re.compile(
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


def parse_refusal(reply: str) -> str:
    """Return the dialogue. Raises ValueError unless its answers refuse, give a reason and an alternative."""
    dialogue = parse_dialogue(clean(reply))
    answers = " ".join(utterance for role, utterance in dialogue if role == ASSISTANT)
    sentences = [sentence for sentence in _SENTENCE_END.split(answers) if sentence]
    if not any(map(refuses, sentences)):
        raise ValueError("the answer in the dialogue does not say no")
    if not any(map(_is_reason, sentences)):
        raise ValueError("the answer in the dialogue gives no reason")
    if not any(map(_is_offer, sentences)):
        raise ValueError("the answer in the dialogue offers no alternative")
    return format_dialogue(dialogue)


def refuses(sentence: str) -> bool:
    """Return whether the sentence says no."""
    return bool(_NO.search(sentence))


def _is_offer(sentence: str) -> bool:
    return bool(_I_OFFER.search(sentence) or (_OFFER.search(sentence) and not refuses(sentence)))


def _is_reason(sentence: str) -> bool:
    if sentence.endswith("?"):
        return False
    if _BECAUSE.search(sentence) and not _I_OFFER.search(sentence):
        return True
    about_others = not _ABOUT_SPEAKERS.search(sentence) and not _is_offer(sentence)
    return about_others and len(sentence.split()) >= _REASON_WORDS
