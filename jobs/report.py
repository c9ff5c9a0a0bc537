"""scored + rewritten → report card: one pass over each dataset adds up the sums of all numbers.

<output>/card.json, card.html, card.png, README.md
<output>/partitions/<i>-of-<n>/tally.parquet          with partition=i/n: the sums of a share of the files
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import artifact, cluster, dataset, parquet, partition, progress, threshold
from safety_ray.core.artifact import Artifact
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
from safety_ray.report.tally import Cell, Sums, count_originals, count_rewritten, merge_cells, to_table

_TALLY = "tally.parquet"
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
    partition: str = setting(partition.SETTING, default="")

    def __post_init__(self) -> None:
        partition.check(self.partition)
        if self.batch_rows < 1:
            raise UserError(f"batch_rows={self.batch_rows} must be at least 1.")
        for name in ("title", "language", "license"):
            value = getattr(self, name)
            if not value.strip() or not value.isprintable():
                raise UserError(f"{name}={value!r} must be one line of text, not empty.")


def write_report_card(config: ReportConfig) -> dict[str, Any]:
    """Write the card of `config.scored`. Returns the record; a finished folder is skipped."""
    config = partition.of(config, "scored", "rewritten")
    inputs = {"scored": config.scored}
    rows, rewritten_rows = count_rows(config.scored, _ORIGINAL_COLUMNS), 0
    if config.rewritten:
        inputs["rewritten"] = config.rewritten
        rewritten_rows = count_rows(config.rewritten, _REWRITTEN_COLUMNS, minimum=0)
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
        threshold.audited(config.thresholds_from)
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    cluster.start()
    count = count_originals
    if config.rewritten:
        # A text and its original may be in different shares.
        sources = find_sources(partition.whole(config.rewritten))
        count = partial(count_originals_of, sources=Shared(sources))
    cells = count_cells(config.scored, _ORIGINAL_COLUMNS, count, rows, config.batch_rows)
    if rewritten_rows:
        cells |= count_cells(
            config.rewritten, _REWRITTEN_COLUMNS, count_rewritten, rewritten_rows, config.batch_rows
        )
    rows += rewritten_rows
    if not config.partition:
        return finish_card(config, out, cells, rows)
    dataset.write_table(to_table(cells), out.sub(_TALLY))
    paths = [path for path in (config.scored, config.rewritten) if path]
    return out.commit(
        rows_in=rows, rows_out=count_documents(cells), **partition.record("report", dataset.files, *paths)
    )


def finish_card(config: ReportConfig, out: Artifact, cells: dict[Cell, Sums], rows: int) -> dict[str, Any]:
    """Write the files of the card, which is about `rows` rows. Returns the record."""
    kept_below = threshold.audited(config.thresholds_from) if config.thresholds_from else 1
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
    print(f"\n{console(card)}\n", flush=True)
    return out.commit(
        rows_in=rows,
        rows_out=count_documents(cells),
        outcomes=card["outcomes"],
        headline=card["headline"],
    )


def read_tally(path: str, rows: int) -> dict[Cell, Sums]:
    """Return the cells of the partition in `path`. Raises UserError unless they have `rows` documents."""
    name = f"{path}/{_TALLY}"
    with parquet.readable(name), fsspec.open(name) as file:
        cells = merge_cells([pq.read_table(file, partitioning=None)])
    if count_documents(cells) != rows:
        raise UserError(
            f"'{name}' counts {count_documents(cells):,} documents, and its record {rows:,}; remove the "
            "folder and run the partition again."
        )
    return cells


def count_documents(cells: dict[Cell, Sums]) -> int:
    """Return the number of documents of all cells."""
    return sum(sums.documents for sums in cells.values())


def find_sources(rewritten: str) -> Sources:
    """Return the documents that the texts of the dataset `rewritten` were made from."""
    names = [name for name in SOURCE_COLUMNS if name in dataset.columns(rewritten)]
    ds = dataset.read(rewritten, _REWRITTEN_COLUMNS).select_columns(names)
    ds = ds.map_batches(hash_sources, batch_format="pyarrow", batch_size=None)
    return merge_sources(ds.iter_batches(batch_format="pyarrow", batch_size=None))


def count_rows(path: str, columns: tuple[Column, ...], minimum: int = 1) -> int:
    """Return the rows of the dataset at `path`, which may be a share.

    Raises UserError if the whole dataset has fewer than `minimum` rows or lacks a column.
    """
    whole = partition.whole(path)
    dataset.check(whole, columns)
    rows = dataset.count(path)
    if rows < minimum and dataset.count(whole) < minimum:
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

    with progress.watch("report", rows, lambda: progress.Done(done), saved=False):
        return merge_cells(batches())


if __name__ == "__main__":
    from jobs.cli import main

    main("report")
