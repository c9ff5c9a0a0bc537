"""The n-gram pass of the report against regular expressions that look for the same n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.score.settings import ScoreBenchmark, in_turns
from benchmarks.score.texts import SOURCES, documents
from safety_ray.report.ngrams import find_ngrams, load_lists, normalize


def rows(config: ScoreBenchmark) -> Iterator[str]:
    table = documents(config.data, max(1, config.documents // 4), list(SOURCES))
    texts = table.column("text").to_pylist()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    lists = load_lists()
    words = [rf"(?<!\w){re.escape(ngram)}(?!\w)" for ngram in lists.ngrams]
    each = [re.compile(word) for word in words]
    # One alternation, in a look-ahead so that n-grams that begin at one place are still only found once.
    longest = re.compile("|".join(sorted(words, key=len, reverse=True)))
    found: dict[str, list[Counter[int]]] = {}

    def automaton() -> None:
        found["automaton"] = [find_ngrams(text) for text in texts]

    def one_each() -> None:
        some = []
        for text in texts[::_PART]:
            text = normalize(text)
            some.append(Counter({i: n for i, r in enumerate(each) if (n := len(r.findall(text)))}))
        found["each"] = some

    def alternation() -> None:
        for text in texts[::_PART]:
            longest.findall(normalize(text))

    part = sum(len(text.encode()) for text in texts[::_PART]) / 1e6
    ways: dict[str, tuple[Callable[[], object], float]] = {
        "report (Aho-Corasick)": (automaton, megabytes),
        "one regular expression of all n-grams (misses those inside others)": (alternation, part),
        "a regular expression for each n-gram": (one_each, part),
    }
    costs = in_turns({name: way for name, (way, _) in ways.items()}, config.rounds)
    yield f"{megabytes:.1f} MB of text, {len(lists.ngrams)} n-grams\n"
    yield "| way | MB per CPU second | against |\n|---|---|---|"
    first = megabytes / np.median(costs["report (Aho-Corasick)"].cpu)
    for name, (_, work) in ways.items():
        speed = work / np.median(costs[name].cpu)
        yield (
            f"| {name} | {speed:.2f} | {first / speed:.1f} times slower |"
            if speed != first
            else (f"| {name} | {speed:.2f} | |")
        )
    same = found["automaton"][::_PART] == found["each"]
    yield f"\nautomaton and expressions count the same: {'yes' if same else 'NO'}"


_PART = 10
"""every tenth document is enough for the slow ways"""
