"""The tokens whose P(tag) each event of a stream has."""

from __future__ import annotations

import pytest

from safety_ray.decode.p_tag_totals import PTagTotals, take_totals
from serve.options import SafetyOptions
from serve.report import SafetyReport


def test_safety_report_leaves_out_echoed_prompt() -> None:
    """An event with three tokens of the prompt and one generated token, then two events with one and none."""
    report = SafetyReport(SafetyOptions(), per_token=True, echoed=3)
    report.add([0.1, 0.2])
    assert [report.for_event(tokens)["p_tags"] for tokens in (4, 1, 0)] == [[0.1], [0.2], []]


def test_safety_report_counts_prompt_over_several_events() -> None:
    report = SafetyReport(SafetyOptions(), per_token=True, echoed=3)
    report.add([0.1, 0.2])
    assert [report.for_event(tokens)["p_tags"] for tokens in (2, 2, 1)] == [[], [0.1], [0.2]]


def test_safety_report_of_prompt_has_no_generated_token() -> None:
    report = SafetyReport(SafetyOptions(), per_token=True, echoed=2, prompt_only=True)
    report.add([0.1])
    answer = report.for_answer()
    assert (answer["p_tags"], answer["p_tag"], answer["prompt_p_tag"]) == ([], 0.1, 0.1)


def test_safety_report_of_totals_equals_that_of_tokens() -> None:
    p_tags = [0.25, 0.5, 0.125]
    of_tokens, of_totals = (
        SafetyReport(SafetyOptions(), per_token=False),
        SafetyReport(SafetyOptions(), False),
    )
    totals = PTagTotals()
    for p_tag in p_tags:
        of_tokens.add([p_tag])
        totals.add(p_tag)
    of_totals.set_totals(totals)
    assert of_totals.summary() == of_tokens.summary()
    expected = {"p_tag": 0.5, "p_tag_mean": 0.875 / 3, "prompt_p_tag": 0.25}
    assert of_tokens.summary().items() >= expected.items()
    assert of_tokens.p_tags == []  # no client has requested them


def test_safety_report_of_nothing_has_no_p_tag() -> None:
    report = SafetyReport(SafetyOptions(), per_token=False)
    report.set_totals(PTagTotals())
    assert (report.highest, report.summary()["p_tag_mean"], report.prompt_p_tag) == (None, None, None)


@pytest.mark.parametrize("stop_reason", [None, 40, "the end", '"{', "{}"])
def test_take_totals_returns_what_engine_has_sent(stop_reason: int | str | None) -> None:
    totals = PTagTotals(0.1, 0.2, 0.3, 4)
    assert take_totals(totals.in_stop_reason(stop_reason)) == (stop_reason, totals)
    assert take_totals(stop_reason) == (stop_reason, None)
