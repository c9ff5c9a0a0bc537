"""Safe Beam Search (paper, section 4): beam search that drops what the harmfulness tag would follow.

The algorithm, free of any model. From each beam go out its N most likely next tokens, the
candidates. For each of them one look-ahead asks how likely the tag is right after it. The share
of candidates with the highest such probability is dropped, and the k most likely of the rest go on.

A look-ahead of a candidate is its expansion if it lives: what a model says after a prefix is both
how likely the tag is there and which tokens are next. So a `Search` asks for one thing alone, the
`Expansion` of each of its `pending` prefixes, and one model step makes one output token. Whoever has
a model drives one search or many at once:

    while any(search.pending for search in searches):
        prefixes = [(search, beam.token_ids) for search in searches for beam in search.pending]
        ... one model step over all prefixes ...
        for search in searches:
            search.advance(its expansions, in the order of its pending prefixes)

A step costs k x N rows of the model. With `stride` s only every s-th token is looked ahead of, and
the steps between cost k rows, as plain beam search does: about s times cheaper for a large s, at the
price that what turns unsafe between two look-aheads is met up to s - 1 tokens later, when all beams
may already hold it. `safesample.py` has the member of the family that samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from safety_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is told; the paper gives neither k nor N, and no length penalty."""

    tag_id: int
    eos_ids: Collection[int] = ()  # tokens that end the text; none: only the length limit does
    beam_size: int = 4  # k
    num_candidates: int = 4  # N, of each beam
    max_new_tokens: int = 64
    drop_share: float = 0.5  # 0 is plain beam search
    length_penalty: float = 0.0  # answers are ranked by log-probability / length ** length_penalty
    stride: int = 1  # look ahead of every s-th token; the paper looks ahead of each one

    def __post_init__(self) -> None:
        for name in ("beam_size", "num_candidates", "max_new_tokens", "stride"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.drop_share < 1:
            raise UserError(f"drop_share={self.drop_share} must be at least 0 and less than 1.")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty={self.length_penalty} must be a number.")
        if self.tag_id in self.eos_ids:
            raise UserError(f"token {self.tag_id} is both the tag and an end of text; give two tokens.")

    def dropped(self, candidates: int) -> int:
        """How many of so many candidates are dropped: floor(share x count)."""
        # 0.29 x 100 is 28.999999999999996 as floats: the share is meant as the decimal it is written as.
        return math.floor(round(self.drop_share * candidates, 9))


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a model says after a prefix.

    `token_ids` are the most likely next tokens, best first, and `log_probs` their raw
    log-probabilities, not renormalised. At least N must be given beside the tag (fewer only where
    the vocabulary holds no more); the search itself leaves out the tag and what is beyond N.
    `p_tag` is the softmax probability of the tag as the next token.
    """

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    p_tag: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that was found: its new tokens (an end of text included), log P, P(tag) after each token."""

    token_ids: tuple[int, ...]
    log_prob: float
    p_tag: tuple[float, ...]
    finished: bool  # ended by itself, not by the length limit


@dataclass(eq=False, slots=True)
class Beam:
    """A prefix without its prompt."""

    token_ids: tuple[int, ...] = ()
    log_prob: float = 0.0
    p_tag: tuple[float, ...] = ()  # one less than tokens until it is expanded
    ended: bool = False
    parent: Beam | None = None  # what it extends by one token
    slot: int = 0  # its own index in the pending list
    expansion: Expansion = field(default=Expansion((), (), 0.0))

    def expand(self, expansion: Expansion, slot: int) -> None:
        if not 0 <= expansion.p_tag <= 1:
            raise ValueError(f"P(tag) after {self.token_ids} is {expansion.p_tag}: no probability.")
        self.expansion, self.slot = expansion, slot
        if self.token_ids:
            self.p_tag += (expansion.p_tag,)

    def candidates(self, settings: SearchSettings) -> list[Beam]:
        """Its N most likely continuations by one token, never by the tag."""
        e = self.expansion
        found: list[Beam] = []
        for token, log_prob in zip(e.token_ids, e.log_probs, strict=True):
            if token == settings.tag_id or len(found) == settings.num_candidates:
                continue
            ended = token in settings.eos_ids
            # Nothing can follow the end of a text: it takes the P(tag) of the text it ends.
            p_tag = (*self.p_tag, e.p_tag) if ended else self.p_tag
            found.append(Beam((*self.token_ids, token), self.log_prob + log_prob, p_tag, ended, parent=self))
        if not found:
            raise ValueError(f"no token beside the tag was given after {self.token_ids}.")
        return found

    def path(self) -> list[Beam]:
        """The beams it grew from, the prompt's own first: its i-th token was chosen after the i-th."""
        before: list[Beam] = []
        beam = self.parent
        while beam is not None:
            before.append(beam)
            beam = beam.parent
        return before[::-1]


class Search:
    """One Safe Beam Search under way: `pending` asks, `advance` answers, `hypotheses` is the result."""

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings
        self.pending = [Beam()]  # prefixes to expand next; empty once the search is done
        self.live: list[Beam] = []
        self.finished: list[Beam] = []
        self.dropped: list[Beam] = []  # by the last step that looked ahead, the likeliest tag first
        self.done = False
        self._candidates, self._drop = list(self.pending), 0
        self._length = -1  # tokens of the live beams; the prompt's own expansion comes before the first

    def advance(self, expansions: Sequence[Expansion]) -> None:
        """Take the expansions of all pending prefixes, in their order, and go one token further.

        Raises ValueError where their number does not fit or one of them is no probability.
        """
        if len(expansions) != len(self.pending):
            raise ValueError(f"{len(expansions)} expansions for {len(self.pending)} pending prefixes.")
        for slot, (beam, expansion) in enumerate(zip(self.pending, expansions, strict=True)):
            beam.expand(expansion, slot)
        self.pending = []
        while not self.pending and not self.done:  # where every candidate has ended nothing is to be asked
            self._choose()

    def _choose(self) -> None:
        """Drop the likeliest to be harmful, keep the k most likely, and send out their candidates."""
        settings = self.settings
        self.dropped, rest = riskiest(self._candidates, self._drop)
        # Without a drop the beams that go on were chosen before they were expanded.
        chosen = self.select(rest) if self._drop else rest
        self.finished += [beam for beam in chosen if beam.ended]
        self.live = [beam for beam in chosen if not beam.ended]
        self._length += 1
        self.done = (
            len(self.finished) >= settings.beam_size
            or not self.live
            or self._length == settings.max_new_tokens
        )
        if self.done:
            return
        self._candidates = [child for beam in self.live for child in self.candidates(beam)]
        looks_ahead = (self._length + 1) % settings.stride == 0
        self._drop = settings.dropped(len(self._candidates)) if looks_ahead else 0
        if not self._drop:  # P(tag) decides nothing in this step: only those that go on need a look-ahead
            self._candidates = self.select(self._candidates)
        self.pending = [beam for beam in self._candidates if not beam.ended]

    def candidates(self, beam: Beam) -> list[Beam]:
        """What may follow a live beam."""
        return beam.candidates(self.settings)

    def select(self, beams: list[Beam]) -> list[Beam]:
        """Which of the candidates that were not dropped go on: the k most likely."""
        return most_likely(beams, self.settings.beam_size)

    def ranked(self) -> list[Beam]:
        """The k best of finished and live, best first; at equal score the one that finished first."""

        def score(beam: Beam) -> float:
            return beam.log_prob / float(max(len(beam.token_ids), 1) ** self.settings.length_penalty)

        return sorted([*self.finished, *self.live], key=score, reverse=True)[: self.settings.beam_size]

    def hypotheses(self) -> list[Hypothesis]:
        """What `ranked` holds, for those who asked."""
        return [Hypothesis(b.token_ids, b.log_prob, b.p_tag, b.ended) for b in self.ranked()]

    def agreed(self) -> tuple[int, ...]:
        """The tokens that every answer this search can still give begins with."""
        texts = [beam.token_ids for beam in (*self.finished, *self.live)]
        if not texts:
            return ()
        first, last = min(texts), max(texts)  # what these two share, all share
        same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return first[: next(same, min(len(first), len(last)))]


def riskiest(candidates: list[Beam], drop: int) -> tuple[list[Beam], list[Beam]]:
    """The `drop` candidates of highest P(tag), and the others in their order.

    At equal P(tag) the less likely is dropped first, then the later one.
    """
    order = (
        sorted(range(len(candidates)), key=lambda i: (-candidates[i].p_tag[-1], candidates[i].log_prob, -i))
        if drop
        else []
    )
    gone = set(order[:drop])
    return [candidates[i] for i in order[:drop]], [beam for i, beam in enumerate(candidates) if i not in gone]


def most_likely(beams: list[Beam], number: int) -> list[Beam]:
    """The `number` most likely of `beams`, best first; at equal log-probability the earlier one."""
    return sorted(beams, key=lambda beam: -beam.log_prob)[:number]


def search(
    expand: Callable[[list[tuple[int, ...]]], Sequence[Expansion]], settings: SearchSettings
) -> list[Hypothesis]:
    """One whole search; `expand` is given prefixes (new tokens only) and returns an expansion for each."""
    one = Search(settings)
    while one.pending:
        one.advance(expand([beam.token_ids for beam in one.pending]))
    return one.hypotheses()
