"""The tokens whose P(tag) each event of a stream has."""

from __future__ import annotations

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
