"""README.md of an evaluation: rates with intervals, next to the measured error of their judge."""

from __future__ import annotations

from typing import Any

from safety_ray.core.markdown import percent, points, table
from safety_ray.evaluate.measure import FEWEST_GROUPS

FEWEST_TOKENS = 20
"""Tokens per parameter of compute-optimal training (Hoffmann et al., arXiv 2203.15556)."""
FEWEST_CONTINUED = 1
"""Tokens per parameter of continued training, in which a model only has to learn the tag."""

_WHAT = {"harm": "harmful", "refusal": "refused"}


def readme(title: str, values: dict[str, Any]) -> str:
    """Return the Markdown page of `values`, the content of metrics.json."""
    lines = [f"# Evaluation of {title}", "", "![rates](evaluate.png)", ""]
    notes = warnings(values)
    if notes:
        lines += [*(f"**Warning: {note}**  " for note in notes), ""]
    lines += ["## Answers", "", *_rates(values), ""]
    lines += [
        "Intervals are 95% and resample groups, because prompts of one group, such as the variants of one",
        "document, are not independent. `corrected` estimates the rate that a judge without errors would",
        "find (Rogan and Gladen), if the judge errs on these answers as often as on the answers it was",
        "measured on, where its misses and false alarms were counted. An empty answer is neither harmful nor",
        "a refusal.",
        "",
    ]
    lines += _classes(values)
    if values["differences"]:
        lines += ["## Differences on the same prompts", "", *_differences(values), ""]
    if "p_tag_auroc" in values or "perplexity_safe" in values:
        lines += ["## Documents", "", *_documents(values), ""]
    if values.get("prompts"):
        lines += ["## Prompts", "", *_prompts(values), ""]
    return "\n".join(lines).rstrip() + "\n"


def warnings(values: dict[str, Any]) -> list[str]:
    """Return one sentence per reason not to rely on a rate."""
    notes = [
        f"the judge {name} may not carry a headline: {judge['reason']}."
        for name, judge in values["judges"].items()
        if not judge["trusted"]
    ]
    how, fewest = ("further ", FEWEST_CONTINUED) if values.get("continued") else ("", FEWEST_TOKENS)
    trained = values.get("tokens_per_parameter", fewest)
    if trained < fewest:
        notes.append(
            f"the model was trained {how}on {trained} tokens per parameter, fewer than {fewest}; rates and "
            "P(tag) may change with more training."
        )
    few = {
        (line["prompt_set"], line["kind"]): line["groups"]
        for line in values["rates"]
        if 0 < line["groups"] < FEWEST_GROUPS
    }
    return notes + [
        f"{prompt_set} ({kind}) has {groups} independent groups of prompts, fewer than {FEWEST_GROUPS}."
        for (prompt_set, kind), groups in few.items()
    ]


def _rates(values: dict[str, Any]) -> list[str]:
    head = ["prompts", "kind", "judge", "decoder", "found", "rate", "corrected", "judge's error"]
    head += ["answers", "groups", "empty", "no verdict"]
    several = any("any" in line for line in values["rates"])  # answers to a prompt
    head += ["in any answer"] * several
    rows = [
        [
            line["prompt_set"],
            line["kind"],
            line["judge"],
            line["decoder"],
            _WHAT[line["detects"]],
            percent(line["rate"], line["interval"]),
            percent(line["corrected"], line["corrected_interval"]),
            judge_error(values["judges"][line["judge"]]["errors"]),
            *(f"{line[key]:,}" for key in ("answers", "groups", "empty", "without_verdict")),
            *[percent(line.get("any"), line.get("any_interval"))] * several,
        ]
        for line in values["rates"]
    ]
    return table(head, rows, 5)


def _classes(values: dict[str, Any]) -> list[str]:
    """Return the section with the shares of each class of answers, for judges of refusals."""
    rows = [
        [
            *(line[key] for key in ("prompt_set", "kind", "judge", "decoder")),
            ", ".join(f"{label} {percent(n / line['answers'])}" for label, n in line["labels"].items()),
        ]
        for line in values["rates"]
        if line["detects"] == "refusal" and line["answers"]
    ]
    if not rows:
        return []
    head = ["prompts", "kind", "judge", "decoder", "share of the answers in each class"]
    return ["## Classes of answers", "", *table(head, rows, 5), ""]


def judge_error(errors: dict[str, Any] | None) -> str:
    """Format the misses and false alarms of a judge on answers with human labels."""
    if errors is None:
        return "not measured"
    misses, alarms = (percent(1 - errors[key]) for key in ("sensitivity", "specificity"))
    return f"misses {misses}, false alarms {alarms} ({errors['answers']:,} answers)"


def _differences(values: dict[str, Any]) -> list[str]:
    rows = [
        [
            line["prompt_set"],
            line["kind"],
            line["judge"],
            f"{line['decoder']} − {line['minus']}",
            points(line["difference"], line["difference_interval"]),
            f"{line['answers']:,}",
            f"{line['only_first']:,}",
            f"{line['only_second']:,}",
            "–" if line["p_value"] is None else f"{line['p_value']:.3g}",
        ]
        for line in values["differences"]
    ]
    head = ["prompts", "kind", "judge", "decoders", "difference in points", "prompts"]
    head += ["only first", "only second", "McNemar p"]
    return [
        *table(head, rows, 4),
        "",
        "`only first`: answers in which the judge finds harm, or a refusal, with the first of both only.",
        "McNemar's exact test needs independent prompts, so it is left out where prompts share a group.",
        *_compared_to(values),
    ]


def _compared_to(values: dict[str, Any]) -> list[str]:
    where = values.get("compared_to")
    return ["", f"`(compared)`: answers of the same decoder in `{where}`, judged here."] if where else []


def _documents(values: dict[str, Any]) -> list[str]:
    rows = []
    for key, value in values.items():
        if key.startswith(("p_tag_", "perplexity")) and not isinstance(value, list) and value is not None:
            interval = values.get(_interval_key(key))
            between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            rows.append([f"`{key}`", f"{value:.4g}{between}"])
    return table(["metric", "value"], rows, 1)


def _interval_key(key: str) -> str:
    name, slash, source = key.partition("/")
    return f"{name}_interval{slash}{source}"


def _prompts(values: dict[str, Any]) -> list[str]:
    keys = ["answered", "too_long", "refused", "too_short", "repeated", "excluded", "not_sampled"]
    head = ["set", "kind", *(key.replace("_", " ") for key in keys)]
    rows = [
        [line["prompt_set"], line["kind"], *(f"{line[key]:,}" if key in line else "–" for key in keys)]
        for line in values["prompts"]
    ]
    return [
        *table(head, rows, 2),
        "",
        "`too long`: with its answer, the prompt exceeds the model's context. `refused`: the endpoint",
        "refused its request. `too short`: the document has no more words than a prompt. `excluded`: sexual",
        "content with minors. `not sampled`: see `max_prompts`, `skip_prompts`, `max_documents`.",
    ]
