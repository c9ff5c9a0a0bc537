"""Accuracy of classifiers with several encoders, each on sets that it was not trained on.

    python -m benchmarks.encoders configs/fit/default.yaml per_source=500 \
        encoders=[all-MiniLM-L6-v2,runs/mpnet:3,runs/smollm2:12]

For each set, a head is trained on the other sets of a fit's config and measured on this one, as with
`leave_one_out` of `fit`. The column `words` has a head on the hashed words and letters of a text instead of
an encoder, and `together` the mean of the probabilities of all columns before it.

Prints a table of AUROCs, means over the thresholds that the labels of a set define, and a second one with the
texts scored 3 or more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.pipeline import make_union

from jobs.fit import FitConfig, Fitting, gather
from safety_ray.classifier.training.head import fit_head
from safety_ray.classifier.training.measures import measure_rows
from safety_ray.classifier.training.rows import Row, split
from safety_ray.core.config import setting
from safety_ray.core.job import main

_WIDTH = 2048
"""hashed words, and as many hashed groups of letters"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersBenchmark(FitConfig):
    """Compare encoders by the accuracy of their heads on sets left out of the training."""

    output: str = setting("not used", default="")
    encoders: list[str] = setting(
        "names, folders or hub ids, each with the number of last layers after a colon, or all", factory=list
    )


def run(config: EncodersBenchmark) -> dict[str, Any]:
    """Print the tables. Returns {}."""
    fit = FitConfig(**{field.name: getattr(config, field.name) for field in fields(FitConfig)})
    train, heldout = split(gather(fit), fit.per_family, fit.heldout_share, fit.seed)
    rows: dict[str, list[Row]] = {}
    for row in [*train, *heldout]:
        rows.setdefault(row["source"], []).append(row)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for encoder in config.encoders:
        name, _, layers = encoder.partition(":")
        fitting = Fitting(replace(fit, encoder=name, layers=int(layers or 0)), train, heldout)
        found[encoder.rsplit("/", 1)[-1]] = {source: fitting.unseen(source)[0] for source in rows}
    found["words"] = unseen_by_words(fit, train, heldout)
    found["together"] = {
        source: torch.stack([column[source].softmax(-1) for column in found.values()]).mean(0).log()
        for source in rows
    }
    measured = {
        name: {source: measure_rows(logits, rows[source]) for source, logits in column.items()}
        for name, column in found.items()
    }
    print_table("AUROC", measured, ["auroc"])
    print_table("scored 3 or more: harmful, harmless texts", measured, ["recall_at_3", "false_alarms_at_3"])
    return {}


def unseen_by_words(fit: FitConfig, train: list[Row], heldout: list[Row]) -> dict[str, torch.Tensor]:
    """Return the (n, 6) logits of all texts of each source by a head on hashed words, trained without it."""
    vectors = make_union(
        HashingVectorizer(n_features=_WIDTH, ngram_range=(1, 2), alternate_sign=False),
        HashingVectorizer(n_features=_WIDTH, ngram_range=(2, 5), analyzer="char_wb", alternate_sign=False),
    )
    rows = [*train, *heldout]
    x = torch.from_numpy(vectors.transform([row["text"] for row in rows]).toarray()).float()
    low = torch.tensor([row["label"] for row in rows])
    high = torch.tensor([row["label_max"] for row in rows])
    found = {}
    for source in dict.fromkeys(row["source"] for row in rows):
        own = torch.tensor([row["source"] == source for row in rows])
        others = ~own & (torch.arange(len(rows)) < len(train))
        head = fit_head(x[others], low[others], high[others], unsafe_weight=fit.unsafe_weight, l2=fit.l2)
        found[source] = head(x[own])
    return found


def print_table(title: str, measured: dict[str, dict[str, Any]], keys: list[str]) -> None:
    """Print one row per set, with `keys` of each column, and their means."""
    columns = list(measured)
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for source in measured[columns[0]]:
        values = [[measured[column][source][key] for key in keys] for column in columns]
        if any(value is not None for cell in values for value in cell):
            print(f"| `{source}` | {' | '.join(map(_cell, values))} |")
    means = [
        [_mean([of_source[key] for of_source in measured[column].values()]) for key in keys]
        for column in columns
    ]
    print(f"| mean | {' | '.join(map(_cell, means))} |", flush=True)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cell(values: list[float | None]) -> str:
    return ", ".join("–" if value is None else f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main(EncodersBenchmark, run)
