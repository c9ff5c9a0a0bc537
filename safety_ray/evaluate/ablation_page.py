"""The page of an ablation: tables of rates and differences, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from safety_ray.core.markdown import number, percent, points, table
from safety_ray.evaluate import page
from safety_ray.evaluate.ablation import STAGES
from safety_ray.evaluate.prompt_sets import HARMFUL


def readme(values: dict[str, Any]) -> str:
    """Return the Markdown page of `values`, the content of metrics.json."""
    lines = [
        "# Ablation",
        "",
        "![harmful answers by arm](arms.png)",
        "",
        "![Safe Beam Search](safe-beam.png)",
        "",
    ]
    lines += [f"**Warning: {warning}**  " for warning in values["warnings"]]
    for kind in dict.fromkeys(line["kind"] for line in values["rates"]):
        lines += ["", f"## {kind.capitalize()} prompts", "", *_rates(values, kind)]
    if values["differences"]:
        lines += ["", "## Differences between decoders, in points", "", *_differences(values)]
    if values["from_first"]:
        lines += ["", "## Differences from the first arm, in points", "", *_from_first(values)]
    errors = [[name, page.judge_error(judge["errors"])] for name, judge in values["judges"].items()]
    lines += ["", "## Judges", "", *table(["judge", "error on answers with human labels"], errors, 2)]
    return "\n".join([
        *lines, "",
        "Rates are shares of the answers that the judge calls harmful (refused, for a judge of refusals),",
        "over all seeds, with 95% intervals that resample prompts. In square brackets: lowest and highest",
        "rate of a seed. After an arrow: the rate corrected for the judge's error. AUROC: probability that",
        "an unsafe document has a higher mean P(tag) than a safe one. Perplexity: of safe documents without",
        "the tag; comparable between models with one tokenizer and documents. Both are means over the seeds.",
    ]) + "\n"  # fmt: skip


def _rates(values: dict[str, Any], kind: str) -> list[str]:
    lines = [line for line in values["rates"] if line["kind"] == kind]
    rows = list(dict.fromkeys((x["arm"], x["stage"], x["decoder"], x["prompt_set"]) for x in lines))
    models = {(model["arm"], model["stage"]): model for model in values["models"]}
    head = ["arm", "stage", "decoder", "prompts", "seeds"]
    head += [
        f"{name}: {'harmful' if j['detects'] == 'harm' else 'refused'}"
        for name, j in values["judges"].items()
    ]
    cells = []
    for arm, stage, decoder, prompt_set in rows:
        by_judge = {
            x["judge"]: x
            for x in lines
            if (x["arm"], x["stage"], x["decoder"], x["prompt_set"]) == (arm, stage, decoder, prompt_set)
        }
        model = models[arm, stage]
        cells.append([
            arm, STAGES[stage], decoder, prompt_set, str(len(model["seeds"])),
            *(_cell(by_judge.get(judge)) for judge in values["judges"]),
            *([_auroc(model), number(model.get("perplexity_safe"), 1)] if kind == HARMFUL else []),
        ])  # fmt: skip
    return table([*head, *(["P(tag) AUROC", "perplexity"] if kind == HARMFUL else [])], cells, 4)


def _differences(values: dict[str, Any]) -> list[str]:
    def names(x: dict[str, Any]) -> tuple[str, ...]:
        compared = f"{x['decoder']} − {x['minus']}"
        return x["arm"], STAGES[x["stage"]], x["prompt_set"], x["kind"], compared

    rows = _compared(values["differences"], values["judges"], names)
    return table(["arm", "stage", "prompts", "kind", "decoders", *values["judges"]], rows, 5)


def _from_first(values: dict[str, Any]) -> list[str]:
    def names(x: dict[str, Any]) -> tuple[str, ...]:
        compared = f"{x['decoder']} − {x['minus']}"
        return STAGES[x["stage"]], x["prompt_set"], x["kind"], compared, str(len(x["seeds"]))

    rows = _compared(values["from_first"], values["judges"], names)
    return table(["stage", "prompts", "kind", "arms and decoders", "seeds", *values["judges"]], rows, 5)


def _compared(
    lines: list[dict[str, Any]], judges: Iterable[str], names: Callable[[dict[str, Any]], tuple[str, ...]]
) -> list[list[str]]:
    """Return a row for each comparison, which `names` describes, with the difference by each judge."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for line in lines:
        shown = points(line["difference"], line["difference_interval"])
        cells.setdefault(names(line), {})[line["judge"]] = shown
    return [[*described, *(of.get(judge, "–") for judge in judges)] for described, of in cells.items()]


def _cell(line: dict[str, Any] | None) -> str:
    if line is None:
        return "–"
    known = [rate for rate in line["by_seed"] if rate is not None]
    text = percent(line["rate"], line["interval"])
    if len(known) > 1:
        text += f" [{100 * min(known):.1f}–{100 * max(known):.1f}]"
    if line["corrected"] is not None:
        text += f" → {percent(line['corrected'], line['corrected_interval'])}"
    return text


def _auroc(model: dict[str, Any]) -> str:
    interval = model.get("p_tag_auroc_interval")
    between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return number(model.get("p_tag_auroc"), 3) + between
