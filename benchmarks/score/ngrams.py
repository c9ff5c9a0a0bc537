"""The n-gram pass of the report, compared with regular expressions for the same n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.score.settings import ScoreBenchmark, measure_alternately
from benchmarks.score.texts import SOURCES, documents
from safety_ray.report.ngrams import find_ngrams, load_lists, normalize

_STEP = 10  # every tenth document is enough for the slow variants


def rows(config: ScoreBenchmark) -> Iterator[str]:
    """Yield the lines of the table."""
    table = documents(config.data, max(1, config.documents // 4), list(SOURCES))
    texts = table.column("text").to_pylist()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    lists = load_lists()
    patterns = [rf"(?<!\w){re.escape(ngram)}(?!\w)" for ngram in lists.ngrams]
    expressions = [re.compile(pattern) for pattern in patterns]
    longest_first = re.compile("|".join(sorted(patterns, key=len, reverse=True)))
    counts: dict[str, list[Counter[int]]] = {}

    def automaton() -> None:
        counts["automaton"] = [find_ngrams(text) for text in texts]

    def one_expression_each() -> None:
        counts["each"] = []
        for text in texts[::_STEP]:
            text = normalize(text)
            matches = {i: len(expression.findall(text)) for i, expression in enumerate(expressions)}
            counts["each"].append(Counter({i: n for i, n in matches.items() if n}))

    def alternation() -> None:
        for text in texts[::_STEP]:
            longest_first.findall(normalize(text))

    part = sum(len(text.encode()) for text in texts[::_STEP]) / 1e6
    variants: dict[str, tuple[Callable[[], object], float]] = {
        "report (Aho-Corasick)": (automaton, megabytes),
        "one regular expression of all n-grams (misses those inside others)": (alternation, part),
        "a regular expression for each n-gram": (one_expression_each, part),
    }
    costs = measure_alternately({name: run for name, (run, _) in variants.items()}, config.rounds)
    yield f"{megabytes:.1f} MB of text, {len(lists.ngrams)} n-grams\n"
    yield "| variant | MB per CPU second | compared |\n|---|---|---|"
    first = megabytes / np.median(costs["report (Aho-Corasick)"].cpu)
    for name, (_, work) in variants.items():
        speed = work / np.median(costs[name].cpu)
        yield (
            f"| {name} | {speed:.2f} | {first / speed:.1f} times slower |"
            if speed != first
            else (f"| {name} | {speed:.2f} | |")
        )
    same = counts["automaton"][::_STEP] == counts["each"]
    yield f"\nautomaton and expressions count the same: {'yes' if same else 'NO'}"
