"""The search algorithm, on tables of probabilities instead of a model."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from brute_force import answers, brute_force
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_ray.core.errors import UserError
from safety_ray.decode.safebeam import Expansion, Hypothesis, Search, SearchSettings

Row = list[float]
TAG, EOS = 0, 1


class Table:
    """A 'model': every prefix has its own row of log-probabilities, a function of the seed and the prefix.

    With `levels`, probabilities have few distinct values, so that ties are frequent.
    """

    def __init__(self, seed: int, vocabulary: int, levels: int = 0) -> None:
        self.seed, self.vocabulary, self.levels, self.steps = seed, vocabulary, levels, 0
        self.rows: dict[tuple[int, ...], Row] = {}

    def row(self, prefix: tuple[int, ...]) -> Row:
        if prefix not in self.rows:
            self.rows[prefix] = self._make_row(prefix)
        return self.rows[prefix]

    def _make_row(self, prefix: tuple[int, ...]) -> Row:
        rng = random.Random(f"{self.seed} {prefix}")
        if self.levels:  # small integers, whose sums are exact
            return [-float(rng.randrange(1, self.levels + 1)) for _ in range(self.vocabulary)]
        weights = [rng.expovariate(1.0) for _ in range(self.vocabulary)]
        return [math.log(w / sum(weights)) for w in weights]

    def log_probs(self, prefixes: list[tuple[int, ...]]) -> list[Row]:
        return [self.row(prefix) for prefix in prefixes]

    def expand(self, prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        self.steps += 1
        expansions = []
        for row in self.log_probs(prefixes):
            tokens = sorted(range(self.vocabulary), key=lambda t: -row[t])
            expansions.append(Expansion(tokens, [row[t] for t in tokens], math.exp(row[TAG])))
        return expansions


def search(
    expand: Callable[[list[tuple[int, ...]]], Sequence[Expansion]], options: SearchSettings
) -> list[Hypothesis]:
    """Run one search; `expand` returns one expansion per prefix."""
    running = Search(options)
    while running.pending:
        running.advance(expand([beam.token_ids for beam in running.pending]))
    return running.hypotheses()


def assert_same(found: list[Hypothesis], expected: list) -> None:  # type: ignore[type-arg]
    assert [h.token_ids for h in found] == [t.tokens for t in expected]
    assert [h.log_prob for h in found] == [t.log_prob for t in expected]
    assert [h.p_tag for h in found] == [t.p_tag for t in expected]
    assert [h.finished for h in found] == [t.ended for t in expected]


@settings(max_examples=600, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(2, 9),
    levels=st.sampled_from([0, 0, 1, 2, 4]),
    k=st.integers(1, 5),
    n=st.integers(1, 9),
    length=st.integers(1, 5),
    share=st.sampled_from(["0", "0.25", "0.29", "0.5", "0.75", "0.99"]),
    penalty=st.sampled_from([0.0, 1.0, 0.6, -0.5]),
    ends=st.sampled_from([(), (EOS,), (EOS, 3)]),
    stride=st.sampled_from([1, 1, 1, 2, 3]),
)
def test_safebeam_search_matches_brute_force(
    seed: int,
    vocabulary: int,
    levels: int,
    k: int,
    n: int,
    length: int,
    share: str,
    penalty: float,
    ends: tuple[int, ...],
    stride: int,
) -> None:
    table = Table(seed, vocabulary, levels)
    options = SearchSettings(
        tag_id=TAG,
        eos_ids=ends,
        beam_size=k,
        num_candidates=n,
        max_new_tokens=length,
        drop_share=float(share),
        length_penalty=penalty,
        stride=stride,
    )
    hypotheses = search(table.expand, options)
    finished, live = brute_force(
        table.log_probs, tag=TAG, eos=frozenset(ends), k=k, n=n, length=length, share=share, stride=stride
    )
    assert_same(hypotheses, answers(finished, live, k, penalty))
    assert table.steps <= length + 1, "more than one model step per token"
    assert all(TAG not in h.token_ids for h in hypotheses)
    assert all(len(h.p_tag) == len(h.token_ids) for h in hypotheses)


def test_safebeam_search_expands_each_unfinished_prefix_once() -> None:
    table, expanded = Table(3, 6), []

    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        expanded.extend(prefixes)
        return table.expand(prefixes)

    search(expand, SearchSettings(tag_id=TAG, eos_ids={EOS}, max_new_tokens=6))
    assert len(expanded) == len(set(expanded)) > 6
    assert not any(EOS in prefix for prefix in expanded)


def test_safebeam_search_pending_beams_reference_parent_slot() -> None:
    running = Search(
        SearchSettings(tag_id=TAG, eos_ids={EOS}, beam_size=3, num_candidates=5, max_new_tokens=6)
    )
    table, before = Table(1, 8), [()]
    running.advance(table.expand([()]))
    while running.pending:
        for beam in running.pending:
            assert beam.parent is not None
            assert before[beam.parent.slot] == beam.token_ids[:-1] == beam.parent.token_ids
        before = [beam.token_ids for beam in running.pending]
        running.advance(table.expand(before))
    assert running.done


def test_safebeam_search_expands_one_row_per_beam_within_stride() -> None:
    options = SearchSettings(tag_id=TAG, beam_size=3, num_candidates=5, max_new_tokens=6, stride=3)
    running, table, rows = Search(options), Table(1, 8), []
    while running.pending:
        rows.append(len(running.pending))
        running.advance(table.expand([beam.token_ids for beam in running.pending]))
    assert rows == [1, 3, 3, 15, 3, 3, 15]


@pytest.mark.parametrize("seed", range(100))
def test_safebeam_search_common_prefix_is_growing_prefix_of_answer(seed: int) -> None:
    options = SearchSettings(tag_id=TAG, eos_ids={EOS}, beam_size=2, num_candidates=2, max_new_tokens=8)
    running, table, prefixes = Search(options), Table(seed, 4), [()]
    while running.pending:
        running.advance(table.expand([beam.token_ids for beam in running.pending]))
        prefixes.append(running.common_prefix())
    answer = running.hypotheses()[0].token_ids
    for before, after in itertools.pairwise([*prefixes, answer]):
        assert after[: len(before)] == before
    shared = [h.token_ids[: len(prefixes[-1]) + 1] for h in running.hypotheses()]
    assert len(set(shared)) > 1 or prefixes[-1] == answer  # the prefix is as long as possible


def test_safebeam_search_sorts_dropped_beams_by_p_tag() -> None:
    options = SearchSettings(tag_id=TAG, beam_size=2, num_candidates=3, max_new_tokens=4)
    running, table = Search(options), Table(5, 8)
    running.advance(table.expand([()]))
    while running.pending:
        pending = {beam.token_ids for beam in running.pending}
        running.advance(table.expand([beam.token_ids for beam in running.pending]))
        dropped = [(beam.p_tag[-1], beam.token_ids) for beam in running.dropped]
        assert len(dropped) == len(pending) // 2
        assert dropped == sorted(dropped, reverse=True)
        assert dropped[-1][0] >= max(beam.p_tag[-1] for beam in running.live)
        assert {tokens for _, tokens in dropped} < pending


def test_safebeam_search_path_lists_every_prefix_expansion() -> None:
    running, table = Search(SearchSettings(tag_id=TAG, max_new_tokens=5)), Table(2, 8)
    while running.pending:
        running.advance(table.expand([beam.token_ids for beam in running.pending]))
    for beam in running.ranked():
        path = beam.path()
        assert [step.token_ids for step in path] == [beam.token_ids[:i] for i in range(5)]
        assert tuple(step.expansion.p_tag for step in path[1:]) == beam.p_tag[:-1]


@pytest.mark.parametrize("seed", range(30))
def test_safebeam_search_finds_optimum_when_exhaustive(seed: int) -> None:
    """With a beam for every text the search is exhaustive, and its result is the optimum.

    The optimum bounds the results of fewer beams if these are complete. A search that stops at k finished
    texts may return a live one that is still short, and therefore more likely than any complete text.
    """
    table, length = Table(seed, 4), 3
    best = -math.inf
    for tokens in itertools.chain.from_iterable(itertools.product((1, 2, 3), repeat=r) for r in (1, 2, 3)):
        if EOS in tokens[:-1] or (len(tokens) < length and tokens[-1] != EOS):
            continue
        best = max(best, sum(table.row(tokens[:i])[t] for i, t in enumerate(tokens)))

    def best_hypothesis(k: int) -> Hypothesis:
        options = SearchSettings(
            tag_id=TAG, eos_ids={EOS}, beam_size=k, num_candidates=3, max_new_tokens=length, drop_share=0.0
        )
        return search(table.expand, options)[0]

    assert best_hypothesis(k=100).log_prob == pytest.approx(best, abs=1e-12)
    fewer = [best_hypothesis(k) for k in (1, 2, 3, 4)]
    assert all(h.log_prob <= best + 1e-12 for h in fewer if h.finished or len(h.token_ids) == length)


def test_safebeam_search_can_score_lower_with_more_beams() -> None:
    """Beam search is not monotone in k, so no test may assert that it is: here two beams lose to one.

    Tokens a, b, c, d are 2, 3, 4, 5. One beam follows a to its likely end. With two beams, both children of b
    replace the only child of a before its likely end is reached.
    """
    p = {
        (): {2: 0.5, 3: 0.4},
        (2,): {2: 0.3, 3: 0.25},
        (3,): {2: 0.5, 3: 0.49},
        (2, 2): {2: 0.99},
        (3, 2): {2: 0.3},
        (3, 3): {2: 0.3},
    }

    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        rows = [sorted(p.get(prefix, {2: 0.01}).items(), key=lambda item: -item[1]) for prefix in prefixes]
        return [Expansion([t for t, _ in row], [math.log(v) for _, v in row], 0.0) for row in rows]

    def best(k: int) -> float:
        options = SearchSettings(tag_id=TAG, beam_size=k, max_new_tokens=3, drop_share=0.0)
        return math.exp(search(expand, options)[0].log_prob)

    assert best(1) == pytest.approx(0.5 * 0.3 * 0.99)
    assert best(2) == pytest.approx(0.4 * 0.5 * 0.3)
    assert best(2) < best(1)
    assert best(3) == pytest.approx(best(1))


@pytest.mark.parametrize("seed", range(20))
def test_safebeam_search_ignores_extra_candidates_at_zero_drop(seed: int) -> None:
    """At most k children of a beam are kept, so N = k equals the whole vocabulary."""
    options = SearchSettings(tag_id=TAG, beam_size=3, num_candidates=3, max_new_tokens=5, drop_share=0.0)
    table = Table(seed, 12)
    assert search(table.expand, options) == search(
        table.expand, dataclasses.replace(options, num_candidates=12)
    )


def test_safebeam_search_drops_continuation_with_high_p_tag() -> None:
    """The more likely text, after which the tag is likely, is dropped; with drop_share 0 it is the result."""
    rows = {
        (): ([2, 3], [0.6, 0.3], 0.0),
        (2,): ([2, 3], [0.9, 0.1], 0.9),
        (3,): ([2, 3], [0.5, 0.5], 0.1),
    }

    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        entries = [rows[prefix] for prefix in prefixes]
        return [Expansion(tokens, [math.log(p) for p in ps], tag) for tokens, ps, tag in entries]

    options = SearchSettings(tag_id=TAG, beam_size=1, num_candidates=2, max_new_tokens=1)
    assert search(expand, options)[0].token_ids == (3,)
    assert search(expand, dataclasses.replace(options, drop_share=0.0))[0].token_ids == (2,)


def test_safebeam_search_excludes_tag_and_keeps_raw_scores() -> None:
    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        return [Expansion([TAG, 2, 3], [math.log(0.8), math.log(0.1), math.log(0.05)], 0.8) for _ in prefixes]

    best, *_ = search(expand, SearchSettings(tag_id=TAG, num_candidates=2, max_new_tokens=3))
    assert best.token_ids == (2, 2, 2)
    assert best.log_prob == pytest.approx(3 * math.log(0.1)), "probabilities are not renormalized"
    assert best.p_tag == (0.8, 0.8, 0.8)


@given(
    seed=st.integers(0, 99),
    k=st.integers(1, 5),
    n=st.integers(1, 5),
    length=st.integers(1, 5),
    share=st.sampled_from(["0", "0.25", "0.5", "0.75", "0.9"]),
    stride=st.integers(1, 3),
    ends=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_search_settings_max_results_bounds_results(
    seed: int, k: int, n: int, length: int, share: str, stride: int, ends: bool
) -> None:
    eos = frozenset({EOS}) if ends else frozenset()
    table = Table(seed, 7)
    finished, live = brute_force(
        table.log_probs, tag=TAG, eos=eos, k=k, n=n, length=length, share=share, stride=stride
    )
    options = SearchSettings(
        tag_id=TAG,
        eos_ids=eos,
        beam_size=k,
        num_candidates=n,
        max_new_tokens=length,
        drop_share=float(share),
        stride=stride,
    )
    found = len(answers(finished, live, k))
    assert found <= options.max_results() <= k
    if not ends and n * (1 - float(share)) >= 1:  # beams never become fewer
        assert found == options.max_results()


def test_search_settings_max_results_of_small_searches() -> None:
    """2 of 4 candidates remain after the first step, and 4 of 8 after the second."""
    options = SearchSettings(tag_id=TAG, beam_size=4, num_candidates=4)
    assert [dataclasses.replace(options, max_new_tokens=n).max_results() for n in (1, 2, 64)] == [2, 4, 4]
    assert dataclasses.replace(options, beam_size=2, num_candidates=2).max_results() == 1
    assert dataclasses.replace(options, beam_size=2, num_candidates=2, drop_share=0.0).max_results() == 2


def test_search_settings_num_dropped_uses_exact_decimal_share() -> None:
    """In floating point, 0.29 x 100 and 0.57 x 100 are just below 29 and 57."""
    options = SearchSettings(tag_id=TAG)
    assert dataclasses.replace(options, drop_share=0.29).num_dropped(100) == 29
    assert dataclasses.replace(options, drop_share=0.57).num_dropped(100) == 57
    assert [options.num_dropped(n) for n in (1, 2, 3, 4)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam_size": 0}, "beam_size=0"),
        ({"num_candidates": 0}, "num_candidates=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"drop_share": 1.0}, "drop_share=1.0"),
        ({"drop_share": -0.1}, "drop_share=-0.1"),
        ({"drop_share": math.nan}, "drop_share=nan"),
        ({"length_penalty": math.inf}, "length_penalty=inf"),
        ({"eos_ids": {TAG}}, "both the tag and an end"),
    ],
)
def test_search_settings_rejects_invalid_values(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchSettings(**{"tag_id": TAG, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "0 expansions for 1"),
        ([Expansion([2], [0.0], math.nan)], "which is no probability"),
        ([Expansion([TAG], [0.0], 0.5)], "no token other than the tag"),
        ([Expansion([2, 3], [0.0], 0.5)], "zip"),
    ],
)
def test_safebeam_search_rejects_malformed_expansions(answer: list[Expansion], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(SearchSettings(tag_id=TAG)).advance(answer)
