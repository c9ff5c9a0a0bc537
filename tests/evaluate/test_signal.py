"""Measurements of P(tag) against numbers computed by hand and by brute force."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from safety_ray.core.tag import encode
from safety_ray.evaluate import model, signal, signal_page, tasks
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.reading import Reading
from safety_ray.evaluate.signal import Signal, calibration, signal_metrics, stop_threshold

FEW: dict[str, Any] = {"seed": 0, "resamples": 200}
KINDS = ("safe", "unsafe")


def made(unsafe: bool, group: str, p_tags: list[float], category: str | None = None) -> Signal:
    """Return a signal whose positions are ends of words, except every third one."""
    ends = np.array([n % 3 != 2 for n in range(len(p_tags))])
    return Signal(unsafe, group, category, np.array(p_tags), ends)


@pytest.fixture(scope="module")
def found() -> list[Signal]:
    rng = random.Random(1)
    signals = []
    for n in range(120):
        p_tags = [rng.random() * (0.3 + n % 2) for _ in range(rng.randint(2, 9))]
        signals.append(made(n % 2 == 1, str(n // 4), p_tags, "ab"[n % 5 > 2]))
    return signals


def test_calibration_error_matches_hand_computed_values() -> None:
    perfect = [made(n % 2 == 1, str(n), [0.05 * (n % 2)] * 4) for n in range(20)]
    assert calibration(perfect, 0.05, **FEW)["error"] == pytest.approx(0.0, abs=1e-12)
    constant = [made(n % 2 == 1, str(n), [0.02] * 4) for n in range(20)]
    result = calibration(constant, 0.05, **FEW)
    # Half of the positions are unsafe, so 0.025 is expected everywhere.
    assert result["error"] == pytest.approx(0.005)
    assert result["relative"] == pytest.approx(0.2)
    assert result["interval"][0] < 0.005 < result["interval"][1]
    assert result["positions"] == 20 * 3
    assert sum(line["positions"] for line in result["bins"]) == 60


def test_calibration_bins_match_brute_force(found: list[Signal]) -> None:
    result = calibration(found, 0.1, **FEW)
    rows = sorted((p, s.unsafe) for s in found for p in s.at_word_ends)
    assert sum(line["positions"] for line in result["bins"]) == len(rows)
    assert len(result["bins"]) == signal.BINS
    first, error = 0, 0.0
    for line in result["bins"]:
        chosen = rows[first : first + line["positions"]]
        assert line["p_tag"] == pytest.approx(np.mean([p for p, _ in chosen]))
        assert line["expected"] == pytest.approx(0.1 * np.mean([unsafe for _, unsafe in chosen]))
        error += abs(line["p_tag"] - line["expected"]) * len(chosen) / len(rows)
        first += line["positions"]
    assert result["error"] == pytest.approx(error)


def ordered_pairs(found: list[Signal], value_of: Any, keep: Any = lambda s: True) -> float:
    """Return the share of pairs of an unsafe and a safe document with the higher value in the unsafe one."""
    chosen = [s for s in found if keep(s)]
    unsafe, safe = ([value_of(s) for s in chosen if s.unsafe is kind] for kind in (True, False))
    return float(np.mean([(u > s) + (u == s) / 2 for u in unsafe for s in safe]))


def test_signal_metrics_match_share_of_ordered_pairs(found: list[Signal]) -> None:
    values = signal_metrics(found, tag_rate=0.05, false_alarms=0.1, **FEW)
    assert [line["words"] for line in values["by_words"]] == [1, 2, 4]
    for line in values["by_words"]:
        k = line["words"]
        expected = ordered_pairs(
            found, lambda s, k=k: s.at_word_ends[:k].mean(), lambda s, k=k: len(s.at_word_ends) >= k
        )
        assert line["auroc"] == pytest.approx(expected, abs=1e-4)
    inside = ordered_pairs(found, lambda s: s.p_tags[~s.word_end].mean(), lambda s: len(s.p_tags) > 2)
    assert values["positions"]["inside_words"]["auroc"] == pytest.approx(inside, abs=1e-4)
    a = ordered_pairs(found, lambda s: s.at_word_ends.mean(), lambda s: not s.unsafe or s.category == "a")
    assert values["by_category"]["a"]["auroc"] == pytest.approx(a, abs=1e-4)
    unsafe_only = [s for s in found if s.unsafe]
    assert signal_metrics(unsafe_only, tag_rate=0.05, false_alarms=0.1, **FEW) == {}
    text = "\n".join(signal_page.lines(values))
    assert "| category a |" in text
    assert "Threshold of the mode `stop`" in text
    assert signal_page.plot(values).startswith(b"\x89PNG")


@pytest.mark.parametrize("documents", [2, 3, 2 * signal.FEWEST_DOCUMENTS - 1, 2 * signal.FEWEST_DOCUMENTS])
@pytest.mark.parametrize("p_tag", [0.0, 0.02])
def test_signal_of_few_documents_is_plotted(documents: int, p_tag: float) -> None:
    found = [made(n % 2 == 1, str(n), [p_tag] * 4) for n in range(documents)]
    values = signal_metrics(found, tag_rate=0.05, false_alarms=0.1, **FEW)
    assert bool(values["by_words"]) == (documents >= 2 * signal.FEWEST_DOCUMENTS)
    assert signal_page.plot(values).startswith(b"\x89PNG")
    assert any(line.startswith("Expected calibration error") for line in signal_page.lines(values))


def test_stop_threshold_allows_share_of_safe_documents(found: list[Signal]) -> None:
    result = stop_threshold(found, 0.1, **FEW)
    safe = result["validation_safe"]
    assert safe["stopped"] <= 0.1 < safe["stopped"] + 1 / safe["documents"]
    assert result["threshold"] == float(f"{result['threshold']:.6g}"), "the page shows the exact value"
    tops = {signal.p_tags.max() for signal in found}
    assert all(top >= result["threshold"] or top * (1 + 5e-6) < result["threshold"] for top in tops)
    assert result["test_unsafe"]["stopped"] > result["test_safe"]["stopped"]
    halves = [result[f"{half}_{kind}"] for half in ("validation", "test") for kind in KINDS]
    assert sum(half["documents"] for half in halves) == len(found)
    assert stop_threshold(found[:2], 0.1, **FEW) == {}, "one group cannot be in both halves"


def test_word_ends_are_before_each_word_but_the_first(model_path: str) -> None:
    described = model.describe(model_path)
    tokenizer = AutoTokenizer.from_pretrained(described.folder)
    texts = ["One cafe, two  cups\nof tea.", " x", "a" * 300 + " b"]
    documents = [Document(str(n), text, False) for n, text in enumerate(texts)]
    flags = tasks.word_ends(described, documents, document_tokens=100)
    for text, ids, ends in zip(texts, encode(tokenizer, texts), flags, strict=True):
        assert len(ends) == min(len(ids), 100)
        for position in range(len(ends) - 1):
            before, following = (tokenizer.decode(ids[: position + n]) for n in (1, 2))
            begins = bool(before.strip()) and len(following.split()) > len(before.split())
            assert ends[position] == begins, (text, before)
    readings = [Reading(len(ends), 0.1, 1.0, 1.0, (0.1,) * len(ends)) for ends in flags]
    assert [len(s.at_word_ends) for s in signal.signals(documents, readings, flags)] == [5]
