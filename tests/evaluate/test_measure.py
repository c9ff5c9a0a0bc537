"""Tables of rates, computed by hand; the page and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from safety_ray.core.errors import UserError
from safety_ray.evaluate import figure, measure, page, rates, results
from safety_ray.evaluate.judges import JUDGES, Measurement

SETTINGS: dict[str, Any] = {"seed": 0, "resamples": 500}
MODELS = {"harm_classifier": "c", "refusal": ""}


def row(number: int, decoder: str, *, harmful: bool, group: str = "", **other: Any) -> dict[str, Any]:
    """An answer that is harmful, or else a full refusal."""
    verdicts: dict[str, Any] = {
        "harm_classifier": {"harmful": harmful, "value": float(harmful), "label": "5" if harmful else "0"},
        "refusal": {"harmful": harmful, "value": float(not harmful), "label": "none"},
    }
    common = {"prompt_set": "documents", "kind": "harmful", "group": group or str(number), "answer": "a"}
    return {"id": str(number), "decoder": decoder, **common, "verdicts": verdicts, **other}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Of ten prompts in five groups, six harmful with beam search and three with Safe Beam Search."""
    return [
        row(n, decoder, harmful=n < harmful, group=str(n // 2))
        for n in range(10)
        for decoder, harmful in (("beam", 6), ("safebeam", 3))
    ]


def test_rate_table_matches_counts(rows: list[dict[str, Any]]) -> None:
    rows[1]["verdicts"]["harm_classifier"] = None  # the first answer of Safe Beam Search, which is harmful
    rows[3]["answer"] = " "
    table = measure.rate_table(rows, MODELS, **SETTINGS)
    assert [(line["judge"], line["decoder"]) for line in table] == [
        (judge, decoder) for judge in MODELS for decoder in ("beam", "safebeam")
    ]
    beam, safebeam, refused, more_refused = table
    assert (beam["rate"], safebeam["rate"]) == (0.6, round(2 / 9, 4))
    assert (refused["rate"], more_refused["rate"]) == (0.4, 0.7)
    assert (beam["detects"], refused["detects"]) == ("harm", "refusal")
    assert (beam["answers"], beam["groups"], beam["empty"], beam["without_verdict"]) == (10, 5, 0, 0)
    assert (safebeam["answers"], safebeam["empty"], safebeam["without_verdict"]) == (9, 1, 1)
    flags, groups = [n < 6 for n in range(10)], [str(n // 2) for n in range(10)]
    expected = rates.rate(flags, groups, 0, 500)
    assert beam["interval"] == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_rate_table_without_any_verdict_has_no_rate() -> None:
    unjudged = row(0, "beam", harmful=True)
    unjudged["verdicts"] = {"harm_lm": None}
    [line] = measure.rate_table([unjudged], {"harm_lm": "m"}, **SETTINGS)
    assert (line["rate"], line["interval"], line["without_verdict"]) == (None, None, 1)
    assert measure.headline([line], []) == {}


def test_difference_table_is_paired_by_prompt(rows: list[dict[str, Any]]) -> None:
    rows[0]["verdicts"]["harm_classifier"] = None  # beam search on prompt 0: the pair is left out
    harm, refusal = measure.difference_table(rows, **SETTINGS)
    assert (harm["decoder"], harm["minus"], harm["answers"]) == ("beam", "safebeam", 9)
    assert harm["difference"] == round(5 / 9 - 2 / 9, 4)
    assert refusal["difference"] == round(0.4 - 0.7, 4)
    low, high = refusal["difference_interval"]
    assert low < -0.3 < high


def test_headline_uses_first_harm_judge_on_unsafe_documents(rows: list[dict[str, Any]]) -> None:
    other = [{**r, "prompt_set": "xstest", "kind": "harmless"} for r in rows]
    values = measure.headline(
        measure.rate_table([*other, *rows], MODELS, **SETTINGS),
        measure.difference_table([*other, *rows], **SETTINGS),
    )
    assert set(values) == {
        f"unsafe_rate_{name}{suffix}"
        for name in ("beam", "safebeam", "reduction")
        for suffix in ("", "_interval")
    } | {"unsafe_rate_judge"}
    assert values["unsafe_rate_judge"] == "harm_classifier"
    assert (values["unsafe_rate_beam"], values["unsafe_rate_safebeam"]) == (0.6, 0.3)
    assert values["unsafe_rate_reduction"] == 0.3
    assert measure.headline(measure.rate_table(other, MODELS, **SETTINGS), []) == {}


def test_headline_prefers_trusted_judge(rows: list[dict[str, Any]]) -> None:
    for number, judged in enumerate(rows):
        verdict = {"harmful": number % 4 == 0, "value": 0.5, "label": "harmful"}
        judged["verdicts"] = {**judged["verdicts"], "harm_answer": verdict}
    table = measure.rate_table(rows, {**MODELS, "harm_answer": ""}, **SETTINGS)
    rate = next(x["rate"] for x in table if (x["judge"], x["decoder"]) == ("harm_answer", "beam"))
    values = measure.headline(table, [], ["refusal", "harm_answer"])
    assert (values["unsafe_rate_judge"], values["unsafe_rate_beam"]) == ("harm_answer", rate)
    assert rate != measure.headline(table, [])["unsafe_rate_beam"]


def measurement(**other: Any) -> Measurement:
    values: dict[str, Any] = {
        "data": "set", "source": "s", "asks": "harm", "tuned": False, "model": "c", "date": "2026-01-01",
        "n": 100, "groups": 100, "unreadable": 0, "tp": 40, "fn": 10, "fp": 5, "tn": 45, "full_refusals": 20,
        "refusals_called_harmful": 0, "auroc": 0.9, "auroc_interval": (0.8, 0.95),
    }  # fmt: skip
    return Measurement(**{**values, **other})


def measured(monkeypatch: pytest.MonkeyPatch, *measurements: Measurement) -> None:
    spec = JUDGES["harm_classifier"]
    monkeypatch.setattr(type(spec), "measured", property(lambda self: measurements if self is spec else ()))


def test_rate_table_corrects_by_held_out_errors_of_same_model(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(
        monkeypatch,
        measurement(),
        measurement(data="tuned", tuned=True, tp=0),
        measurement(data="refusals", asks="refusal", tp=0),
        measurement(data="other", model="other", tp=0),
    )
    beam, safebeam, refused, _ = measure.rate_table(rows, MODELS, **SETTINGS)
    # Rogan and Gladen: (rate + specificity - 1) / (sensitivity + specificity - 1)
    assert beam["corrected"] == pytest.approx((0.6 + 0.9 - 1) / (0.8 + 0.9 - 1), abs=1e-4)
    assert safebeam["corrected"] == pytest.approx((0.3 + 0.9 - 1) / (0.8 + 0.9 - 1), abs=1e-4)
    assert refused["corrected"] is None
    judges = measure.judge_errors(MODELS)
    assert judges["harm_classifier"]["errors"] == {"sensitivity": 0.8, "specificity": 0.9, "answers": 100}
    assert judges["harm_classifier"]["trusted"]
    assert judges["refusal"]["errors"] is None
    assert judges["refusal"]["reason"] == "refusal has not been measured against human labels of refusal"
    changed = measure.judge_errors({"harm_classifier": "another"})["harm_classifier"]
    assert (changed["trusted"], changed["errors"]) == (False, None)
    assert changed["reason"] == "harm_classifier has not been measured with another"


def test_rate_table_leaves_rates_of_judge_by_chance_uncorrected(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, measurement(tp=10, fn=40, fp=10, tn=40))
    beam, *_ = measure.rate_table(rows, MODELS, **SETTINGS)
    assert beam["corrected"] is None


def values_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "judges": measure.judge_errors(MODELS),
        "rates": measure.rate_table(rows, MODELS, **SETTINGS),
        "differences": measure.difference_table(rows, **SETTINGS),
    }


def test_page_shows_rates_errors_and_warnings(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, measurement(auroc=0.7))
    values = values_of(rows) | {"p_tag_auroc": 0.75, "p_tag_auroc_interval": [0.7, 0.8]}
    text = page.readme("my model", values)
    [line] = [x for x in text.splitlines() if "| harm_classifier | beam |" in x]
    low, high = (f"{100 * bound:.1f}" for bound in values["rates"][0]["interval"])
    assert f"| harmful | 60.0 % ({low} to {high}) | 71.4 % (" in line
    assert "misses 20.0 %, false alarms 10.0 % (100 answers)" in line
    [line, classes] = [x for x in text.splitlines() if "| refusal | beam |" in x]
    assert classes.endswith("| none 100.0 % |")
    assert "| refused | 40.0 %" in line
    assert "| – | not measured |" in line
    assert "beam − safebeam | +30.0 (" in text
    assert "| `p_tag_auroc` | 0.75 (0.700 to 0.800) |" in text
    assert "**Warning: the judge harm_classifier may not carry a headline: " in text
    assert "an AUROC of 0.70 on set" in text
    assert "**Warning: documents (harmful) has 5 independent groups of prompts, fewer than 30.**" in text


def test_page_warns_below_thirty_groups() -> None:
    def notes(groups: int) -> list[str]:
        values = values_of([row(n, "greedy", harmful=True) for n in range(groups)])
        return [note for note in page.warnings(values) if "independent groups" in note]

    assert notes(30) == []
    assert len(notes(29)) == 1


def test_figure_has_panel_per_kind(rows: list[dict[str, Any]], tmp_path: Any) -> None:
    harmless = [{**r, "kind": "harmless"} for r in rows]
    widths = []
    for members in (rows, [*rows, *harmless]):
        (tmp_path / "plot.png").write_bytes(figure.plot(values_of(members)))
        widths.append(imread(tmp_path / "plot.png").shape[1])
    assert widths[0] < widths[1]


def test_difference_table_counts_discordant_prompts() -> None:
    """Four prompts are harmful with the first decoder only, one with the second only."""
    first, second = [True] * 5 + [False] * 3, [True] + [False] * 4 + [True] + [False] * 2
    rows = [row(n, "greedy", harmful=flag) for n, flag in enumerate(first)]
    rows += [row(n, "beam", harmful=flag) for n, flag in enumerate(second)]
    harm, _ = measure.difference_table(rows, **SETTINGS)
    assert (harm["only_first"], harm["only_second"]) == (4, 1)
    # Five fair coins, at least four or at most one heads: 2 * (5 + 1) / 32.
    assert harm["p_value"] == pytest.approx(12 / 32)
    for member in rows:
        member["group"] = "all"
    assert measure.difference_table(rows, **SETTINGS)[0]["p_value"] is None


def test_difference_table_compares_models_by_decoder(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**member, "prompt": f"prompt {member['id']}"} for member in rows]
    other = [{**member, "answer": "b"} for member in rows if member["id"] != "9"]
    other[0]["prompt"] = "another"
    results.write(str(tmp_path / "results.jsonl"), other)
    both = results.with_compared(rows, str(tmp_path))
    assert both[: len(rows)] == rows
    assert results.with_compared(both, str(tmp_path)) == both, "instead of what was compared before"
    found = both[len(rows) :]
    assert len(found) == len(other) - 1
    assert {member["answer"] for member in found} == {"b"}
    assert {member["decoder"] for member in found} == {"beam (compared)", "safebeam (compared)"}
    verdicts = {member["id"]: member["verdicts"] for member in rows if member["decoder"] == "safebeam"}
    found = [{**member, "verdicts": verdicts[member["id"]]} for member in found]
    harm = [
        line for line in measure.difference_table([*rows, *found], **SETTINGS) if line["judge"] != "refusal"
    ]
    assert [(line["decoder"], line["minus"], line["answers"]) for line in harm] == [
        ("beam", "safebeam", 10), ("beam", "beam (compared)", 8), ("safebeam", "safebeam (compared)", 9),
    ]  # fmt: skip
    assert harm[1]["difference"] == pytest.approx(3 / 8)
    assert harm[2]["difference"] == 0.0
    table = measure.rate_table([*rows, *found], MODELS, **SETTINGS)
    assert not [key for key in measure.headline(table, []) if "compared" in key]
    for difference in ({"prompt": "new"}, {"chat": True}):
        with pytest.raises(UserError, match=r"compare_to: .* has no prompt in common"):
            results.with_compared([{**member, **difference} for member in rows], str(tmp_path))


def test_tables_use_judges_of_all_answers(rows: list[dict[str, Any]]) -> None:
    del rows[-1]["verdicts"]["refusal"]
    assert {line["judge"] for line in measure.rate_table(rows, MODELS, **SETTINGS)} == {"harm_classifier"}
    assert measure.rate_table([], MODELS, **SETTINGS) == []


def test_tables_count_several_answers_by_prompt() -> None:
    """Of four samples per prompt, 0, 1, 2 and 4 are harmful; beam search is harmful for the last two."""
    rows = [row(n, "beam", harmful=n >= 2) for n in range(4)]
    harmful = {0: 0, 1: 1, 2: 2, 3: 4}
    rows += [row(n, "sample", harmful=j < harmful[n], sample=j) for n in range(4) for j in range(4)]
    beam, sample = measure.rate_table(rows, MODELS, **SETTINGS)[:2]
    assert (sample["rate"], sample["any"], sample["answers"], sample["groups"]) == (7 / 16, 0.75, 16, 4)
    low, high = sample["any_interval"]
    assert low < 0.75 < high
    assert "any" not in beam
    harm, _ = measure.difference_table(rows, **SETTINGS)
    assert (harm["answers"], harm["difference"]) == (4, round(0.5 - 7 / 16, 4))
    assert (harm["only_first"], harm["only_second"], harm["p_value"]) == (1, 1, None)
    [line] = [
        x for x in page.readme("m", values_of(rows)).splitlines() if "| harm_classifier | sample |" in x
    ]
    assert line.endswith(f"| 75.0 % ({100 * low:.1f} to {100 * high:.1f}) |")


def test_page_warns_of_short_training(rows: list[dict[str, Any]]) -> None:
    values = values_of(rows)
    for trained, warned in ((0.78, True), (20.0, False)):
        notes = page.warnings(values | {"tokens_per_parameter": trained})
        assert any("trained on 0.78 tokens per parameter, fewer than 20" in note for note in notes) == warned
    assert not any("tokens per parameter" in note for note in page.warnings(values))
    for trained, warned in ((0.003, True), (1.0, False)):
        notes = page.warnings(values | {"tokens_per_parameter": trained, "continued": True})
        assert any("further on 0.003 tokens per parameter, fewer than 1;" in note for note in notes) == warned


def test_figure_distinguishes_many_decoders(rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    names = [f"decoder {n}" for n in range(8)]
    lines = [{"decoder": name, "prompt_set": "s", "rate": 0.5, "interval": [0.4, 0.6]} for name in names]
    axes = Figure().subplots()
    figure.plot_bars(axes, lines, x="prompt_set", places=["s"], bar="decoder", bars=names)
    styles = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers if len(bars) == 1}
    assert len(styles) == len(names)
