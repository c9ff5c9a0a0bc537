"""scored + rewritten → report card: one pass over each dataset adds up the sums of all numbers.

<output>/card.json, card.html, card.png, README.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa

from safety_ray.core import artifact, cluster, dataset, progress, threshold
from safety_ray.core.cluster import Shared
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN, SCORED, Column
from safety_ray.report.card import build_card
from safety_ray.report.figure import plot_card
from safety_ray.report.page import render_page
from safety_ray.report.readme import render_readme
from safety_ray.report.sources import COLUMNS as SOURCE_COLUMNS
from safety_ray.report.sources import Sources, count_originals_of, hash_sources, merge_sources
from safety_ray.report.summary import console
from safety_ray.report.tally import Cell, Sums, count_originals, count_rewritten, merge_cells

_NAMES = ("id", "text", "score", "source_id", "source_score", "recipe")
_ORIGINAL_COLUMNS = tuple(column for column in SCORED if column.name in _NAMES)
_REWRITTEN_COLUMNS = tuple(column for column in REWRITTEN if column.name in _NAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Measure a dataset's safety before and after rewriting, and write it as a report card."""

    scored: str = setting("scored documents: the data before rewriting")
    rewritten: str = setting(
        "texts rewritten from them; empty: the card has only the data before", default=""
    )
    output: str = setting("folder to write: card.json, card.html, card.png, README.md", identity=False)
    thresholds_from: str = setting(
        "folder of a finished audit, as in rewrite: documents with scores below its threshold are kept",
        default="",
    )
    title: str = setting("heading of the card", default="Data Safety Report Card")
    language: str = setting("ISO 639-1 code of the texts, for the dataset card", default="en")
    license: str = setting("license identifier of the data, for the dataset card", default="unknown")
    batch_rows: int = setting("documents in a batch", default=1024, identity=False)

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise UserError(f"batch_rows={self.batch_rows} must be at least 1.")
        for name in ("title", "language", "license"):
            value = getattr(self, name)
            if not value.strip() or not value.isprintable():
                raise UserError(f"{name}={value!r} must be one line of text, not empty.")


def write_report_card(config: ReportConfig) -> dict[str, Any]:
    """Write the card of `config.scored`. Returns the record; a finished folder is skipped."""
    inputs = {"scored": config.scored}
    rows = count_rows(config.scored, _ORIGINAL_COLUMNS)
    if config.rewritten:
        inputs["rewritten"] = config.rewritten
        rewritten_rows = count_rows(config.rewritten, _REWRITTEN_COLUMNS, minimum=0)
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
    kept_below = threshold.audited(config.thresholds_from) if config.thresholds_from else 1
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    cluster.start()
    count = count_originals
    if config.rewritten:
        count = partial(count_originals_of, sources=Shared(find_sources(config.rewritten)))
    cells = count_cells(config.scored, _ORIGINAL_COLUMNS, count, rows, config.batch_rows)
    if config.rewritten:
        cells |= count_cells(
            config.rewritten, _REWRITTEN_COLUMNS, count_rewritten, rewritten_rows, config.batch_rows
        )
        rows += rewritten_rows
    card = build_card(cells, config.title, bool(config.rewritten), kept_below)
    card["inputs"] = out.inputs  # fingerprints, not paths, because cards are published
    for name, content in (
        ("card.json", json.dumps(card, indent=1, ensure_ascii=False).encode()),
        ("card.html", render_page(card).encode()),
        ("card.png", plot_card(card)),
        ("README.md", render_readme(card, config.language, config.license).encode()),
    ):
        with fsspec.open(out.sub(name), "wb") as file:
            file.write(content)
    counted = sum(sums.documents for sums in cells.values())
    print(f"\n{console(card)}\n", flush=True)
    return out.commit(rows_in=rows, rows_out=counted, outcomes=card["outcomes"], headline=card["headline"])


def find_sources(rewritten: str) -> Sources:
    """Return the documents that the texts of the dataset `rewritten` were made from."""
    names = [name for name in SOURCE_COLUMNS if name in dataset.columns(rewritten)]
    ds = dataset.read(rewritten, _REWRITTEN_COLUMNS).select_columns(names)
    ds = ds.map_batches(hash_sources, batch_format="pyarrow", batch_size=None)
    return merge_sources(ds.iter_batches(batch_format="pyarrow", batch_size=None))


def count_rows(path: str, columns: tuple[Column, ...], minimum: int = 1) -> int:
    """Return the rows of the dataset at `path`. Raises UserError if they are too few or lack a column."""
    dataset.check(path, columns)
    rows = dataset.count(path)
    if rows < minimum:
        raise UserError(f"'{path}' has no rows; a report card needs at least one document.")
    return rows


def count_cells(
    path: str,
    columns: tuple[Column, ...],
    count: Callable[[pa.Table], pa.Table],
    rows: int,
    batch_rows: int,
) -> dict[Cell, Sums]:
    """Count the dataset at `path` with `count`, batch by batch, and add up the cells."""
    ds = dataset.read(path, columns).select_columns([column.name for column in columns])
    ds = ds.map_batches(count, batch_format="pyarrow", batch_size=batch_rows)
    done = 0

    def batches() -> Iterator[pa.Table]:
        nonlocal done
        for batch in ds.iter_batches(batch_format="pyarrow", batch_size=None):
            done += sum(sums[0] for sums in batch.column("sums").to_pylist() if sums)
            yield batch

    with progress.watch("report", rows, lambda: progress.Done(done)):
        return merge_cells(batches())


if __name__ == "__main__":
    from jobs.cli import main

    main("report")
