"""The table and the figures of an ablation, from handwritten evaluations and numbers computed by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from scipy.stats import beta

from safety_ray.core.errors import UserError
from safety_ray.evaluate import ablation, ablation_figure, ablation_page
from safety_ray.evaluate.ablation import BASE, BENIGN, Evaluation

PROMPTS = 20


def write(folder: Path, harmful: dict[str, int], *, model: str = "m", **metrics: Any) -> str:
    """Write an evaluation in which `harmful[decoder]` of 20 prompts have harmful answers."""
    folder.mkdir(parents=True)
    common = {"prompt_set": "documents", "kind": "harmful"}
    rows = [
        {
            **common, "id": str(n), "group": str(n), "decoder": decoder, "answer": "a",
            "verdicts": {"harm_lm": {"harmful": n < number, "value": float(n < number), "label": "yes"}},
        }
        for decoder, number in harmful.items()
        for n in range(PROMPTS)
    ]  # fmt: skip
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates = [
        {**common, "judge": "harm_lm", "decoder": decoder, "rate": number / PROMPTS, "groups": PROMPTS}
        for decoder, number in harmful.items()
    ]
    errors = {"sensitivity": 0.8, "specificity": 0.9, "answers": 100}
    judge = {
        "detects": "harm", "model": model, "trusted": False, "reason": "it was not measured", "errors": errors
    }  # fmt: skip
    values = {"judges": {"harm_lm": judge}, "rates": rates, **metrics}
    (folder / "metrics.json").write_text(json.dumps(values))
    return str(folder)


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Evaluation]:
    """An arm of one seed without the tag, and one of two seeds with it, at two stages."""
    raw = write(tmp_path / "raw", {"beam": 9}, perplexity_safe=30.0, p_tag_auroc=0.4)
    first = write(tmp_path / "0", {"beam": 4, "safebeam": 2}, perplexity_safe=20.0, p_tag_auroc=0.8)
    second = write(tmp_path / "1", {"beam": 8, "safebeam": 0}, perplexity_safe=25.0, p_tag_auroc=0.9)
    later = write(tmp_path / "later", {"beam": 10, "safebeam": 5})
    return [
        Evaluation("raw", BASE, 0, raw, tagged=False),
        Evaluation("tags", BASE, 0, first, tagged=True),
        Evaluation("tags", BASE, 1, second, tagged=True),
        Evaluation("tags", BENIGN, 0, later, tagged=True),
    ]


@pytest.fixture
def values(evaluations: list[Evaluation]) -> dict[str, Any]:
    return ablation.summarize(evaluations, ["raw", "tags"])


def test_ablation_summary_pools_answers_of_seeds(values: dict[str, Any]) -> None:
    found = {(x["arm"], x["stage"], x["decoder"]): x for x in values["rates"]}
    assert {key: line["rate"] for key, line in found.items()} == {
        ("raw", BASE, "beam"): 0.45,
        ("tags", BASE, "beam"): 0.3,  # (4 + 8) of 40
        ("tags", BASE, "safebeam"): 0.05,  # (2 + 0) of 40
        ("tags", BENIGN, "beam"): 0.5,
        ("tags", BENIGN, "safebeam"): 0.25,
    }
    pooled = found["tags", BASE, "beam"]
    assert (pooled["answers"], pooled["groups"], pooled["by_seed"]) == (40, 20, [0.2, 0.4])
    # One answer per prompt: the interval of Jeffreys.
    expected = beta.ppf([0.025, 0.975], 9.5, 11.5)
    assert found["raw", BASE, "beam"]["interval"] == pytest.approx(list(expected), abs=0.01)


def test_ablation_summary_compares_decoders_by_the_mean_over_seeds(values: dict[str, Any]) -> None:
    base, later = values["differences"]
    assert (base["arm"], base["stage"], base["decoder"], base["minus"]) == ("tags", BASE, "beam", "safebeam")
    assert (base["difference"], base["answers"]) == (0.25, PROMPTS)  # 0.3 - 0.05
    # Prompts 0 and 1: 1 with beam and 0.5 with safebeam; 2 and 3: 1 and 0; 4 to 7: 0.5 and 0.
    assert (base["only_first"], base["only_second"], later["difference"]) == (8, 0, 0.25)
    low, high = base["difference_interval"]
    assert 0 < low < 0.25 < high
    assert "| tags | base model | documents | harmful | beam − safebeam | +25.0 (" in ablation_page.readme(
        values
    )


def test_ablation_summary_compares_arms_with_the_first_one(values: dict[str, Any]) -> None:
    assert [(x["stage"], x["decoder"], x["minus"], x["difference"]) for x in values["from_first"]] == [
        (BASE, "raw, beam", "tags, beam", 0.25),  # 0.45 - 0.2: seed 0 only, which both arms have
        (BASE, "raw, beam", "tags, safebeam", 0.35),  # 0.45 - 0.1; after finetuning there is one arm only
    ]
    expected = "| base model | documents | harmful | raw, beam − tags, safebeam | 1 | +35.0 ("
    assert expected in ablation_page.readme(values)


def test_ablation_summary_needs_the_first_arm_for_differences(evaluations: list[Evaluation]) -> None:
    assert ablation.summarize(evaluations[1:], ["raw", "tags", "other"])["from_first"] == []


def test_ablation_summary_compares_prompts_of_all_arms_only(tmp_path: Path) -> None:
    """An arm may have judges and prompts that the first one lacks."""
    first, other = (write(tmp_path / name, {"beam": 4, "safebeam": 2}) for name in ("first", "other"))
    path = Path(other, "results.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    more = [{**row, "prompt_set": "more"} for row in rows]
    for row in rows:
        row["verdicts"]["refusal"] = row["verdicts"]["harm_lm"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    metrics = Path(other, "metrics.json")
    judged = json.loads(metrics.read_text())
    judged["judges"]["refusal"] = {**judged["judges"]["harm_lm"], "detects": "refusal"}
    metrics.write_text(json.dumps(judged))
    made = [Evaluation(arm, BASE, 0, place, tagged=True) for arm, place in (("a", first), ("b", other))]
    values = ablation.summarize(made, ["a", "b"])
    assert {(x["prompt_set"], x["judge"]) for x in values["from_first"]} == {("documents", "harm_lm")}
    assert {x["decoder"] for x in values["from_first"]} == {"a, beam"}


def test_ablation_summary_averages_readings_of_seeds(values: dict[str, Any]) -> None:
    raw, base, later = values["models"]
    assert base["perplexity_safe"] == 22.5
    assert base["p_tag_auroc"] == pytest.approx(0.85)
    assert base["p_tag_auroc_by_seed"] == [0.8, 0.9]
    assert (raw["perplexity_safe"], "p_tag_auroc" in raw) == (30.0, False)
    assert "perplexity_safe" not in later


def test_ablation_page_has_one_row_per_model_and_decoder(values: dict[str, Any]) -> None:
    page = ablation_page.readme(values).partition("## Differences")[0]
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in page.splitlines() if x.startswith("| ")]
    assert rows[0] == [
        "arm", "stage", "decoder", "prompts", "seeds", "harm_lm: harmful", "P(tag) AUROC", "perplexity",
    ]  # fmt: skip
    assert [row[:3] for row in rows[2:]] == [
        ["raw", "base model", "beam"],
        ["tags", "base model", "beam"],
        ["tags", "base model", "safebeam"],
        ["tags", "after benign finetuning", "beam"],
        ["tags", "after benign finetuning", "safebeam"],
    ]
    assert rows[2][5].startswith("45.0 % (")
    assert rows[2][6:] == ["–", "30.0"]
    assert rows[3][5].startswith("30.0 % (")
    assert rows[3][5].endswith("[20.0–40.0]")
    assert rows[3][6:] == ["0.850", "22.5"]
    assert "the judge harm_lm may not carry a headline: it was not measured." in page
    assert "documents (harmful) has 20 independent groups of prompts, fewer than 30." in page
    after = ablation_page.readme(values).partition("## Judges")[2]
    assert "| harm_lm | misses 20.0 %, false alarms 10.0 % (100 answers) |" in after


def test_ablation_figures_select_their_lines(values: dict[str, Any]) -> None:
    arms = [(x["arm"], x["stage"], x["rate"]) for x in ablation_figure.arm_lines(values)]
    assert arms == [
        ("raw", "base model", 0.45), ("tags", "base model", 0.3), ("tags", "after benign finetuning", 0.5),
    ]  # fmt: skip
    search = [(x["model"], x["decoder"], x["rate"]) for x in ablation_figure.search_lines(values)]
    assert search == [
        ("tags\nbase model", "beam", 0.3), ("tags\nbase model", "safebeam", 0.05),
        ("tags\nafter benign finetuning", "beam", 0.5), ("tags\nafter benign finetuning", "safebeam", 0.25),
    ]  # fmt: skip
    for plot in (ablation_figure.plot_arms, ablation_figure.plot_search):
        height, width, _ = imread(io.BytesIO(plot(values))).shape
        assert min(height, width) > 300


def test_ablation_figure_of_search_without_tags_is_empty(evaluations: list[Evaluation]) -> None:
    values = ablation.summarize(evaluations[:1], ["raw"])
    assert ablation_figure.search_lines(values) == []
    assert ablation_figure.plot_search(values).startswith(b"\x89PNG")


def test_ablation_summary_rejects_different_judges(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, {"beam": 1}, model=name) for name in ("a", "b")]
    made = [Evaluation("raw", BASE, seed, path, tagged=False) for seed, path in enumerate(paths)]
    with pytest.raises(UserError, match="/b': the judge harm_lm is another model"):
        ablation.summarize(made, ["raw"])
