"""Decide which rewritten texts are accepted: safer than their source, and with the same content.

The paper does not say how rewritten texts were checked. Here each text is scored again, and texts of recipes
that keep the content are compared with their source. A rejection reason begins with its kind, one of `KINDS`,
so that reasons can be counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.rewrite.recipes import RECIPES

KINDS = (
    *("engine", "declined", "form", "judge", "empty"),
    *("cut off", "copy", "not safer", "language", "content", "facts"),
)
"""Kinds of rejection reasons, in the order in which they are checked."""

_WORD = re.compile(r"[^\W_]+")
_SHINGLE = 8
_SENTENCE_END = re.compile(r"[.!?…。！？।؟][\"'”’»)\]*_」』]*$")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# A capitalised word that does not begin a sentence.
_NAME = re.compile(r"(?<=\w )[^\W\d_a-zß-öø-ÿ][^\W\d_]+(?:['’-][^\W\d_]+)*")
_LETTERS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_MIN_FACTS = 3
_MIN_WORDS, _MIN_CHARS = 12, 60
"""A text with fewer of both is too short to identify its language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Limits that a rewritten text must meet to be accepted."""

    margin: int = setting("minimum difference of the source's score and the text's", default=1)
    max_copied: float = setting(
        f"maximum share of the text's {_SHINGLE}-word sequences that are in the source", default=0.6
    )
    min_similarity: float = setting(
        "rephrase: minimum cosine similarity to the source, of sentence embeddings; -1: no check",
        default=0.35,
    )
    min_facts: float = setting(
        "rephrase: minimum share of the source's numbers and names that the text keeps, "
        f"if there are at least {_MIN_FACTS}",
        default=0.2,
    )
    whole: bool = setting("the text must end with a complete sentence", default=True)
    same_language: bool = setting(
        "the text must be in the source's language, if both languages are certain", default=True
    )
    language_confidence: float = setting("probability from which a language is certain", default=0.8)

    @property
    def compares(self) -> bool:
        """Whether similarity is checked, which embeds each text and its source."""
        return self.min_similarity > -1

    def __post_init__(self) -> None:
        if not 1 <= self.margin <= 5:
            raise UserError(f"accept.margin={self.margin} must be an integer from 1 to 5.")
        for key in ("max_copied", "min_facts", "language_confidence"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"accept.{key}={getattr(self, key)} must be from 0 to 1.")
        if not -1 <= self.min_similarity <= 1:
            raise UserError(f"accept.min_similarity={self.min_similarity} must be from -1 to 1.")


def rejection_reason(row: dict[str, Any], bounds: Bounds) -> str | None:
    """Return the reason to reject a draft, or None to accept it.

    `row` has recipe, text, source, score, source_score (the web document's) and similarity (None if it
    was not measured).
    """
    text, source = row["text"], row["source"]
    if not text.strip():
        return "empty: there is no text"
    if bounds.whole and not _SENTENCE_END.search(text.rstrip()):
        return "cut off: the text does not end with a complete sentence"
    share = copied_share(text, source)
    if share > bounds.max_copied:
        return f"copy: {share:.0%} of the text is in its source"
    if row["score"] > row["source_score"] - bounds.margin:
        return f"not safer: score {row['score']}, the source's is {row['source_score']}"
    if bounds.same_language:
        (own, own_probability), (other, other_probability) = detect_language(text), detect_language(source)
        if min(own_probability, other_probability) >= bounds.language_confidence and own != other:
            return f"language: {own}, the source's is {other}"
    if RECIPES[row["recipe"]].keeps_content:
        similarity = row["similarity"]
        if similarity is not None and similarity < bounds.min_similarity:
            return f"content: similarity {similarity:.2f} to the source"
        kept = kept_facts_share(text, source)
        if kept is not None and kept < bounds.min_facts:
            return f"facts: {kept:.0%} of the source's numbers and names are kept"
    return None


def reason_kind(reason: str) -> str:
    """Return the kind of a rejection reason."""
    return reason.split(":", 1)[0]


def copied_share(text: str, source: str) -> float:
    """Return the share of the text's eight-word sequences that are in the source.

    A text of fewer than eight words is one sequence.
    """
    words, source_words = _WORD.findall(text.lower()), _WORD.findall(source.lower())
    size = min(_SHINGLE, len(words))
    if not size:
        return 0.0
    known = {tuple(source_words[i : i + size]) for i in range(len(source_words) - size + 1)}
    sequences = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return sum(sequence in known for sequence in sequences) / len(sequences)


def kept_facts_share(text: str, source: str) -> float | None:
    """Return the share of the source's numbers and names that occur in the text; None if it has too few."""
    facts = _facts(source)
    if len(facts) < _MIN_FACTS:
        return None
    words = {_normalize(word) for word in [*_NUMBER.findall(text), *_LETTERS.findall(text)]}
    return len(facts & words) / len(facts)


def _facts(text: str) -> set[str]:
    # In a heading every word may be capitalised.
    text = "\n".join(line for line in text.splitlines() if _SENTENCE_END.search(line.rstrip()))
    return {_normalize(fact) for fact in [*_NUMBER.findall(text), *_NAME.findall(text)]}


def _normalize(fact: str) -> str:
    """Lower the case, remove a genitive's ending, and write 1,000 as 1000."""
    fact = re.sub(r"['’]s$", "", fact.lower())
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", fact)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detect_language(text: str) -> tuple[str, float]:
    """Return the ISO 639-1 code and its probability of 2,000 characters; ("", 0.0) if too short."""
    if len(text.split()) < _MIN_WORDS and len(text) < _MIN_CHARS:
        return "", 0.0
    code, probability = _identifier().classify(text[:2000])
    return str(code), float(probability)
