"""Safe Beam Search (paper, section 4): beam search that drops candidates likely to be followed by the tag.

The algorithm, independent of any model. Each beam is extended by its N most likely next tokens, the
candidates. A look-ahead of each candidate gives the probability of the harmfulness tag right after it. The
share of candidates with the highest such probability is dropped, and the k most likely of the remaining ones
are the next beams.

The look-ahead of a candidate is also its expansion if it is kept: one evaluation of a prefix gives both
P(tag) and the next tokens. A `Search` therefore asks for one thing only, the `Expansion` of each of its
`pending` prefixes, and one model step generates one output token. The caller evaluates the model, for one
search or for many searches together:

    while any(search.pending for search in searches):
        prefixes = [(search, beam.token_ids) for search in searches for beam in search.pending]
        ... one model step over all prefixes ...
        for search in searches:
            search.advance(its expansions, in the order of its pending prefixes)

A step costs k x N rows of the model. With `stride` s, only every s-th token has a look-ahead, and the other
steps cost k rows, as in plain beam search: about s times cheaper for a large s. The price is that a text that
turns unsafe between two look-aheads is detected up to s - 1 tokens later, when all beams may contain it.
`variants.py` has other ways to compare candidates and to end a search, and `safesample.py` the search that
samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from safety_ray.core.errors import UserError
from safety_ray.decode import variants
from safety_ray.decode.words import WordStarts


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """Settings of one search. The paper gives neither k nor N, and has no length penalty."""

    tag_id: int | None  # None: the model has no tag, so nothing can be dropped
    eos_ids: Collection[int] = ()  # tokens that end the text; if empty, only the length limit does
    beam_size: int = 4  # k
    num_candidates: int = 4  # N, of each beam
    max_new_tokens: int = 64
    drop_share: float = 0.5  # 0 is plain beam search
    length_penalty: float = 0.0  # hypotheses are ranked by log-probability / length ** length_penalty
    stride: int = 1  # look ahead at every s-th token; 1 is the paper's algorithm
    drop_by: str = "token"  # of variants.DROP_BY
    drop_threshold: float = 0.0  # of the share, drop those only for which `drop_by` reaches this value
    early_stopping: str = "always"  # of variants.EARLY_STOPPING
    words: WordStarts | None = None  # the tokens that begin words, which drop_by "word" needs

    def __post_init__(self) -> None:
        for name in ("beam_size", "num_candidates", "max_new_tokens", "stride"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.drop_share < 1:
            raise UserError(f"drop_share={self.drop_share} must be at least 0 and less than 1.")
        if not -10 <= self.length_penalty <= 10:  # the power of a length must be a finite float
            raise UserError(f"length_penalty={self.length_penalty} must be -10 to 10.")
        for name, known in (("drop_by", variants.DROP_BY), ("early_stopping", variants.EARLY_STOPPING)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)} is unknown; choose from {', '.join(known)}.")
        if not 0 <= self.drop_threshold < math.inf:
            raise UserError(f"drop_threshold={self.drop_threshold} must be at least 0 and finite.")
        if self.drop_by == "word" and self.words is None:
            raise UserError("drop_by=word needs words=word_starts(tokenizer), the tokens that begin a word.")
        if self.tag_id is None and self.drop_share:
            raise UserError(f"drop_share={self.drop_share} must be 0 for a model without the tag.")
        if self.tag_id in self.eos_ids:
            raise UserError(f"token {self.tag_id} is both the tag and an end of text; use different tokens.")

    def num_dropped(self, candidates: int) -> int:
        """Return how many of `candidates` candidates are dropped at most: floor(drop_share x candidates)."""
        # 0.29 x 100 is 28.999999999999996 in floating point; the share is meant as a decimal number.
        return math.floor(round(self.drop_share * candidates, 9))

    def max_results(self) -> int:
        """Return an upper bound of the number of results: below k if most candidates are dropped.

        At k = N = 2 and drop_share 0.5, for example, one of two candidates is dropped in each step, so that
        there is never a second beam.
        """
        beams = 1
        for length in range(1, self.max_new_tokens + 1):
            candidates = beams * self.num_candidates
            looks_ahead = length % self.stride == 0 and not self.drop_threshold
            dropped = self.num_dropped(candidates) if looks_ahead else 0
            beams = max(beams, min(candidates - dropped, self.beam_size))
            if beams == self.beam_size:
                break
        return beams


@dataclass(frozen=True, slots=True)
class Expansion:
    """A model's output after a prefix.

    `token_ids` are the most likely next tokens, best first, and `log_probs` their raw log-probabilities, not
    renormalized. They have at least N tokens other than the tag, or all of a smaller vocabulary; the search
    ignores the tag and tokens beyond N. `p_tag` is the softmax probability of the tag as the next token.
    """

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    p_tag: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One result of a search: a generated text without its prompt."""

    token_ids: tuple[int, ...]
    """generated tokens, including an end of text"""
    log_prob: float
    """log P(tokens | prompt)"""
    p_tag: tuple[float, ...]
    """P(tag) after each token"""
    finished: bool
    """whether an end of text ended it, not the length limit"""


@dataclass(eq=False, slots=True)
class Beam:
    """A prefix without its prompt."""

    token_ids: tuple[int, ...] = ()
    log_prob: float = 0.0
    p_tag: tuple[float, ...] = ()  # has one value less than there are tokens until the beam is expanded
    ended: bool = False
    risk: float = 0.0  # what it is dropped by (variants.DROP_BY); known if it is expanded or has ended
    parent: Beam | None = None  # the beam that it extends by one token
    slot: int = 0  # index in the list of pending beams in which it was expanded
    expansion: Expansion = field(default=Expansion((), (), 0.0))

    def expand(self, expansion: Expansion, slot: int, settings: SearchSettings) -> None:
        if not 0 <= expansion.p_tag <= 1:
            raise ValueError(f"P(tag) after {self.token_ids} is {expansion.p_tag}, which is no probability.")
        self.expansion, self.slot = expansion, slot
        if self.token_ids:
            self.p_tag += (expansion.p_tag,)
        self.risk = self._risk(settings)

    def candidates(self, settings: SearchSettings) -> list[Beam]:
        """Return its N most likely extensions by one token other than the tag."""
        e = self.expansion
        children: list[Beam] = []
        for token, log_prob in zip(e.token_ids, e.log_probs, strict=True):
            if token == settings.tag_id or len(children) == settings.num_candidates:
                continue
            ended = token in settings.eos_ids
            # Nothing follows an end of text, so it has the P(tag) of the text that it ends.
            p_tag = (*self.p_tag, e.p_tag) if ended else self.p_tag
            child = Beam((*self.token_ids, token), self.log_prob + log_prob, p_tag, ended, parent=self)
            if ended:
                child.risk = child._risk(settings)
            children.append(child)
        if not children:
            raise ValueError(f"the expansion after {self.token_ids} has no token other than the tag.")
        return children

    def _risk(self, settings: SearchSettings) -> float:
        p_tag = self.p_tag[-1] if self.p_tag else self.expansion.p_tag
        if self.parent is None or settings.drop_by == "token":
            return p_tag
        if settings.drop_by == "rise":
            return variants.rise(p_tag, [ancestor.expansion.p_tag for ancestor in self.path()])
        return p_tag if self.ended or self._ends_word(settings) else self.parent.risk

    def _ends_word(self, settings: SearchSettings) -> bool:
        """Return whether the most likely next token begins a word or ends the text."""
        following = next((t for t in self.expansion.token_ids if t != settings.tag_id), None)
        if following is None or settings.words is None:
            return False
        return following in settings.eos_ids or settings.words.begins_word(self.token_ids[-1], following)

    def path(self) -> list[Beam]:
        """Return its ancestors, the empty prefix first: the i-th token was chosen after the i-th ancestor."""
        ancestors: list[Beam] = []
        beam = self.parent
        while beam is not None:
            ancestors.append(beam)
            beam = beam.parent
        return ancestors[::-1]


class Search:
    """One running Safe Beam Search.

    Evaluate the model for the beams in `pending`, pass the results to `advance`, and repeat until `pending`
    is empty; `hypotheses` returns the result.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings
        self.pending = [Beam()]  # prefixes to expand next; empty when the search is done
        self.live: list[Beam] = []
        self.finished: list[Beam] = []
        self.dropped: list[Beam] = []  # by the last step with a look-ahead, highest P(tag) first
        self.done = False
        self._candidates, self._num_dropped = list(self.pending), 0
        self._length = -1  # tokens of the live beams; expanding the prompt comes before the first token

    def advance(self, expansions: Sequence[Expansion]) -> None:
        """Accept the expansions of all pending prefixes, in their order, and extend the beams by one token.

        Raises ValueError if their number is wrong or a P(tag) is no probability.
        """
        if len(expansions) != len(self.pending):
            raise ValueError(f"{len(expansions)} expansions for {len(self.pending)} pending prefixes.")
        for slot, (beam, expansion) in enumerate(zip(self.pending, expansions, strict=True)):
            beam.expand(expansion, slot, self.settings)
        self.pending = []
        while not self.pending and not self.done:  # if every candidate has ended, no expansion is needed
            self._step()

    def _step(self) -> None:
        """Drop the candidates with the highest risk, keep the k most likely, and extend them."""
        settings = self.settings
        self.dropped, kept = split_by_risk(self._candidates, self._num_dropped, settings.drop_threshold)
        # If nothing can be dropped, the beams were already selected before their expansion.
        selected = self.select(kept) if self._num_dropped else kept
        self.finished += [beam for beam in selected if beam.ended]
        self.live = [beam for beam in selected if not beam.ended]
        self._length += 1
        self.done = (
            not self.live
            or self._length == settings.max_new_tokens
            or (len(self.finished) >= settings.beam_size and not self._may_improve())
        )
        if self.done:
            return
        self._candidates = [child for beam in self.live for child in self.candidates(beam)]
        looks_ahead = (self._length + 1) % settings.stride == 0
        self._num_dropped = settings.num_dropped(len(self._candidates)) if looks_ahead else 0
        if not self._num_dropped:  # P(tag) has no effect in this step: expand only the beams that are kept
            self._candidates = self.select(self._candidates)
        self.pending = [beam for beam in self._candidates if not beam.ended]

    def _may_improve(self) -> bool:
        """Return whether a live beam may still replace one of the k best finished ones."""
        s = self.settings
        if s.early_stopping == "always":
            return False
        length = variants.best_length(s.early_stopping, self._length, s.max_new_tokens, s.length_penalty)
        best = max(variants.score(beam.log_prob, length, s.length_penalty) for beam in self.live)
        return best > sorted(map(self._score, self.finished), reverse=True)[s.beam_size - 1]

    def _score(self, beam: Beam) -> float:
        return variants.score(beam.log_prob, len(beam.token_ids), self.settings.length_penalty)

    def candidates(self, beam: Beam) -> list[Beam]:
        """Return the candidates of a live beam."""
        return beam.candidates(self.settings)

    def select(self, beams: list[Beam]) -> list[Beam]:
        """Return the candidates to keep, of those that were not dropped: the k most likely."""
        return most_likely(beams, self.settings.beam_size)

    def ranked(self) -> list[Beam]:
        """Return the k best of finished and live beams, best first; on a tie, finished beams come first."""
        beams = sorted([*self.finished, *self.live], key=self._score, reverse=True)
        return beams[: self.settings.beam_size]

    def hypotheses(self) -> list[Hypothesis]:
        """Return the `ranked` beams as results."""
        return [Hypothesis(b.token_ids, b.log_prob, b.p_tag, b.ended) for b in self.ranked()]

    def common_prefix(self) -> tuple[int, ...]:
        """Return the tokens with which every possible result of this search begins."""
        texts = [beam.token_ids for beam in (*self.finished, *self.live)]
        if not texts:
            return ()
        first, last = min(texts), max(texts)  # all texts share what the first and last in order share
        differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return first[: next(differing, min(len(first), len(last)))]


def split_by_risk(
    candidates: list[Beam], num_dropped: int, threshold: float
) -> tuple[list[Beam], list[Beam]]:
    """Return the dropped candidates, highest risk first, and the others in their order.

    Dropped are those of the `num_dropped` of highest risk that reach the threshold. At equal risk the less
    likely candidate is dropped first, then the later one.
    """
    order = (
        sorted(range(len(candidates)), key=lambda i: (-candidates[i].risk, candidates[i].log_prob, -i))
        if num_dropped
        else []
    )
    dropped = [i for i in order[:num_dropped] if candidates[i].risk >= threshold]
    kept = sorted(set(range(len(candidates))).difference(dropped))
    return [candidates[i] for i in dropped], [candidates[i] for i in kept]


def most_likely(beams: list[Beam], number: int) -> list[Beam]:
    """Return the `number` most likely of `beams`, best first; on a tie, the earlier one."""
    return sorted(beams, key=lambda beam: -beam.log_prob)[:number]
