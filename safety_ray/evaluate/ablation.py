"""The values of an ablation: rates of all arms after each training stage, from their judged answers.

The answers of all seeds of an arm are pooled. Intervals resample groups of prompts, and the answers of all
seeds to one prompt are in one group: the intervals express how much a rate depends on the prompts, not how
much on the seed. The range over the seeds is given beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.evaluate import measure, page, results

BASE, SAFETY, BENIGN = "base", "safety", "benign"
STAGES = {BASE: "base model", SAFETY: "after safety finetuning", BENIGN: "after benign finetuning"}
_READINGS = ("p_tag_auroc", "perplexity_safe", "perplexity_unsafe")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation of one model."""

    arm: str
    stage: str
    seed: int
    path: str
    """output folder of evaluate"""
    tagged: bool
    """whether the model was trained to predict the tag; without, its P(tag) has no meaning"""


def summarize(
    evaluations: Sequence[Evaluation], arms: Sequence[str], *, resamples: int = 10_000
) -> dict[str, Any]:
    """Return the content of metrics.json: `judges`, `warnings`, `rates`, `differences` and `models`.

    A line of `rates` is one of `measure.rate_table` with `arm`, `stage`, `seeds` and `by_seed`, the rate of
    each seed. A line of `differences`, one of `measure.difference_table` with `arm`, `stage` and `seeds`,
    compares two decoders by the mean of each prompt over the seeds. A line of `from_first` has the same form
    without `arm`: it compares the first arm and its first decoder with another arm and decoder, named in
    `minus`, on prompts that both answered and over the seeds that both have. A line of `models` has the means
    over the seeds of P(tag)'s AUROC and of perplexity, and `<name>_by_seed`.
    """
    judges: dict[str, dict[str, Any]] = {}
    table: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    answers: dict[tuple[str, str], dict[int, list[results.Row]]] = {}
    warnings: dict[str, None] = {}
    for arm, stage in [(arm, stage) for arm in arms for stage in STAGES]:
        of_cell = [e for e in evaluations if (e.arm, e.stage) == (arm, stage)]
        if not of_cell:
            continue
        metrics = [_metrics(e.path) for e in of_cell]
        for evaluation, values in zip(of_cell, metrics, strict=True):
            warnings |= dict.fromkeys(page.warnings(values))
            for judge, description in values["judges"].items():
                if judges.setdefault(judge, description)["model"] != description["model"]:
                    raise UserError(
                        f"'{evaluation.path}': the judge {judge} is another model than in the other "
                        "evaluations; remove this folder and run the same command."
                    )
        by_seed = {e.seed: _rows(e.path) for e in of_cell}
        answers[stage, arm] = by_seed
        rows = [row for of_seed in by_seed.values() for row in of_seed]
        names = {"arm": arm, "stage": stage, "seeds": [e.seed for e in of_cell]}
        labels = {judge: values["model"] for judge, values in judges.items()}
        for line in measure.rate_table(rows, labels, seed=0, resamples=resamples):
            of_seeds = [_rate(values["rates"], line) for values in metrics]
            table.append({**names, **line, "by_seed": of_seeds})
        compared = measure.difference_table(rows, seed=0, resamples=resamples)
        differences += [{**names, **line} for line in compared]
        models.append({**names, **_readings(metrics, tagged=of_cell[0].tagged)})
    return {
        "judges": judges,
        "warnings": list(warnings),
        "rates": table,
        "differences": differences,
        "from_first": [
            line
            for stage in STAGES
            for arm in arms[1:]
            if (stage, arms[0]) in answers and (stage, arm) in answers
            for line in _from_first_arm(stage, arms[0], arm, answers, resamples)
        ],
        "models": models,
    }


def _from_first_arm(
    stage: str,
    first: str,
    arm: str,
    answers: dict[tuple[str, str], dict[int, list[results.Row]]],
    resamples: int,
) -> list[dict[str, Any]]:
    """Return the differences of an arm from the first one."""
    seeds = sorted(answers[stage, first].keys() & answers[stage, arm].keys())
    rows = [
        {**row, "decoder": f"{name}, {row['decoder']}"}
        for name in (first, arm)
        for seed in seeds
        for row in answers[stage, name][seed]
    ]
    lines = measure.difference_table(rows, seed=0, resamples=resamples)
    return [
        {"stage": stage, "seeds": seeds, **line}
        for line in lines
        if line["decoder"].startswith(f"{first}, ") and line["minus"].startswith(f"{arm}, ")
    ]


def _metrics(path: str) -> dict[str, Any]:
    fs, root = filesystem.find(path)
    values: dict[str, Any] = json.loads(fs.cat_file(f"{root}/metrics.json"))
    return values


def _rows(path: str) -> list[results.Row]:
    fs, root = filesystem.find(path)
    return [json.loads(line) for line in results.lines(fs.cat_file(f"{root}/{results.FILE}"))]


def _rate(lines: list[dict[str, Any]], like: dict[str, Any]) -> float | None:
    """Return the rate of the line of `lines` about the same prompts, judge and decoder as `like`."""
    keys = ("prompt_set", "kind", "judge", "decoder")
    return next((line["rate"] for line in lines if all(line[k] == like[k] for k in keys)), None)


def _readings(metrics: list[dict[str, Any]], *, tagged: bool) -> dict[str, Any]:
    readings: dict[str, Any] = {}
    for name in _READINGS:
        by_seed = [values.get(name) for values in metrics]
        known = [value for value in by_seed if value is not None]
        if known and (tagged or name != "p_tag_auroc"):
            readings |= {name: round(sum(known) / len(known), 4), f"{name}_by_seed": by_seed}
            if len(metrics) == 1 and f"{name}_interval" in metrics[0]:
                readings[f"{name}_interval"] = metrics[0][f"{name}_interval"]
    return readings
