"""published label sets → scored documents: published texts with labels, for training and evaluation.

<output>/data/       all documents, with split train or heldout
<output>/heldout/    the documents with split=heldout
<output>/rejected/   harmful texts whose label may be below or above `unsafe_from`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from safety_ray.classifier import datasets
from safety_ray.core import artifact, dataset
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT, SCORES, schema, stable_hash

SCHEMA = pa.schema(
    [
        *schema(DOCUMENT),
        *((name, pa.int8()) for name in ("score", "label", "label_max")),
        *((name, pa.string()) for name in ("source", "family", "split")),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """Write texts of published label sets as scored documents; the score is the lowest level of the label."""

    sources: list[str] = setting(f"published label sets: {datasets.summary()}")
    data: str = setting("folder with their files (see docs/score.md)", default="data")
    output: str = setting("folder to write", identity=False)
    per_source: int = setting("maximum number of texts of a set; 0: all", default=0)
    unsafe_from: int = setting("lowest level of an unsafe text", default=3)
    heldout_share: float = setting("share of the families to hold out", default=0.1)
    seed: int = setting("seed of the samples and of the split", default=0)

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("sources is empty; give at least one label set.")
        datasets.check_names(self.sources)
        if self.per_source < 0:
            raise UserError(f"per_source={self.per_source} must be at least 0.")
        if not 0 < self.unsafe_from < SCORES:
            raise UserError(f"unsafe_from={self.unsafe_from} must be from 1 to {SCORES - 1}.")
        if not 0 <= self.heldout_share <= 1:
            raise UserError(f"heldout_share={self.heldout_share} must be from 0 to 1.")


def collect_documents(config: CollectConfig) -> dict[str, Any]:
    """Write the documents. Returns the record; a finished folder is skipped."""
    if not artifact.is_finished(config.output):
        datasets.check_files(config.sources, config.data)
    out = artifact.begin(config.output, config, inputs=datasets.inputs(config.sources, config.data))
    if out.record is not None:
        return out.record
    rows = datasets.load(config.sources, config.data, config.per_source, config.seed)
    decided, undecided = [], []
    for row in rows:
        if _is_undecided(row, config.unsafe_from):
            reason = f"label {row['label']}-{row['label_max']} includes both sides"
            undecided.append({**row, dataset.REASON: reason})
        else:
            decided.append(_document(row, config))
    dataset.write_table(pa.Table.from_pylist(decided, SCHEMA), out.sub("data", "documents.parquet"))
    heldout = [row for row in decided if row["split"] == "heldout"]
    dataset.write_table(pa.Table.from_pylist(heldout, SCHEMA), out.sub("heldout", "heldout.parquet"))
    if undecided:
        dataset.write_table(pa.Table.from_pylist(undecided), out.sub("rejected", "undecided.parquet"))
    return out.commit(rows_in=len(rows), rows_out=len(decided), rejected=len(undecided), heldout=len(heldout))


def _is_undecided(row: dict[str, Any], unsafe_from: int) -> bool:
    """Return whether a person found harm, but the label does not say how much.

    A range that starts at 0 is that of prose that was never searched for harm; it counts as safe.
    """
    return bool(0 < row["label"] < unsafe_from <= row["label_max"])


def _document(row: dict[str, Any], config: CollectConfig) -> dict[str, Any]:
    family = row.get("family") or row["id"]
    place = stable_hash(config.seed, "collect", family) / 2**64
    held_out = row.get("split") == "heldout" or place < config.heldout_share
    return {
        "id": row["id"],
        "text": row["text"],
        "score": row["label"],
        "label": row["label"],
        "label_max": row["label_max"],
        "source": row["source"],
        "family": family,
        "split": "heldout" if held_out else "train",
    }


if __name__ == "__main__":
    from jobs.cli import main

    main("collect")
