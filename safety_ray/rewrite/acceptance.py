"""Which rewritten texts are kept: safer than their source, and still about the same things.

The paper does not say how rewrites were checked. Here each is scored again, and a rephrased text is
also held against its source. A verdict begins with its kind (see `KINDS`), so that kinds can be counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

KINDS = (
    *("engine", "declined", "form", "judge", "empty"),
    *("cut off", "copy", "not safer", "language", "content", "facts"),
)
"""Kinds of reasons for which a draft is not kept, in the order in which they are looked for."""

_WORD = re.compile(r"[^\W_]+")
_SHINGLE = 8
_ENDED = re.compile(r"[.!?…。！？।؟][\"'”’»)\]*_」』]*$")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# A name is a capitalised word that does not begin a sentence.
_NAME = re.compile(r"(?<=\w )[^\W\d_a-zß-öø-ÿ][^\W\d_]+(?:['’-][^\W\d_]+)*")
_FEW_FACTS, _FEW_WORDS = 3, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a rewritten text must hold to be kept."""

    margin: int = setting("levels by which its score lies below its source's at least", default=1)
    max_copied: float = setting(
        f"share of its {_SHINGLE}-word runs that stand in the source at most", default=0.6
    )
    min_similarity: float = setting(
        "rephrase: cosine similarity to the source at least, of sentence embeddings; -1: not looked at",
        default=0.35,
    )
    min_facts: float = setting(
        f"rephrase: share of the source's numbers and names that it keeps, if there are {_FEW_FACTS} or more",
        default=0.2,
    )
    whole: bool = setting("it ends like a sentence", default=True)
    same_language: bool = setting("it is in its source's language, where both are sure", default=True)
    language_confidence: float = setting("probability from which a language is sure", default=0.8)

    @property
    def compares(self) -> bool:
        """Whether similarity counts: measuring it embeds each text and its source once more."""
        return self.min_similarity > -1

    def __post_init__(self) -> None:
        if not 1 <= self.margin <= 5:
            raise UserError(f"accept.margin={self.margin} must be an integer from 1 to 5.")
        for key in ("max_copied", "min_facts", "language_confidence"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"accept.{key}={getattr(self, key)} must lie in [0, 1].")
        if not -1 <= self.min_similarity <= 1:
            raise UserError(f"accept.min_similarity={self.min_similarity} must lie in [-1, 1].")


def verdict(row: dict[str, Any], bounds: Bounds) -> str | None:
    """Why the draft `row` is not kept; None where it is.

    It has recipe, text, source, score, source_score (the web document's) and similarity, which is
    None where it was not measured.
    """
    text, source = row["text"], row["source"]
    if not text.strip():
        return "empty: there is no text"
    if bounds.whole and not _ENDED.search(text.rstrip()):
        return "cut off: the text does not end with a sentence"
    share = copied(text, source)
    if share > bounds.max_copied:
        return f"copy: {share:.0%} of the text stands in its source"
    if row["score"] > row["source_score"] - bounds.margin:
        return f"not safer: score {row['score']}, the source's is {row['source_score']}"
    if bounds.same_language:
        ours, theirs = language(text), language(source)
        if min(ours[1], theirs[1]) >= bounds.language_confidence and ours[0] != theirs[0]:
            return f"language: {ours[0]}, the source's is {theirs[0]}"
    if row["recipe"] == "rephrase":
        similarity = row["similarity"]
        if similarity is not None and similarity < bounds.min_similarity:
            return f"content: similarity {similarity:.2f} to the source"
        kept = facts_kept(text, source)
        if kept is not None and kept < bounds.min_facts:
            return f"facts: {kept:.0%} of the source's numbers and names are kept"
    return None


def kind(reason: str) -> str:
    """The kind of a verdict."""
    return reason.split(":", 1)[0]


def copied(text: str, source: str) -> float:
    """Share of the text's runs of eight words that stand in the source; of all its words if it has fewer."""
    ours, theirs = _WORD.findall(text.lower()), _WORD.findall(source.lower())
    size = min(_SHINGLE, len(ours))
    if not size:
        return 0.0
    known = {tuple(theirs[i : i + size]) for i in range(len(theirs) - size + 1)}
    runs = [tuple(ours[i : i + size]) for i in range(len(ours) - size + 1)]
    return sum(run in known for run in runs) / len(runs)


def facts_kept(text: str, source: str) -> float | None:
    """Share of the source's numbers and names that occur in the text; None where it has too few."""
    facts = _facts(source)
    if len(facts) < _FEW_FACTS:
        return None
    words = {_plain(word) for word in [*_NUMBER.findall(text), *_words(text)]}
    return len(facts & words) / len(facts)


def _facts(text: str) -> set[str]:
    # In a heading every word may be capitalised.
    text = "\n".join(line for line in text.splitlines() if _ENDED.search(line.rstrip()))
    return {_plain(fact) for fact in [*_NUMBER.findall(text), *_NAME.findall(text)]}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)


def _plain(fact: str) -> str:
    """Lower case, without a genitive's ending, and 1,000 as 1000."""
    fact = re.sub(r"['’]s$", "", fact.lower())
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", fact)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability) of the text's first 2,000 characters; unsure where it is very short."""
    if len(text.split()) < _FEW_WORDS and len(text) < 5 * _FEW_WORDS:
        return "", 0.0
    found, probability = _identifier().classify(text[:2000])
    return str(found), float(probability)
