"""scored + rewritten → report card: one pass over each dataset, whose sums make every number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from safety_ray.core import artifact, cluster, dataset, progress
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN, SCORED, Column, require
from safety_ray.report.card import build
from safety_ray.report.figure import draw
from safety_ray.report.page import render
from safety_ray.report.readme import write_readme
from safety_ray.report.tally import Cell, Sums, count_originals, count_rewritten, merge

_NEEDED = ("id", "text", "score", "source_score", "recipe")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Measures a dataset's safety before and after rewriting, and writes it as a report card."""

    scored: str = setting("scored documents: the data before")
    rewritten: str = setting(
        "texts rewritten from them; empty: the card shows the data before only", default=""
    )
    output: str = setting("folder to write: card.json, card.html, card.png, README.md", identity=False)
    title: str = setting("heading of the card", default="Data Safety Report Card")
    language: str = setting("ISO 639-1 code of the texts, for the dataset card", default="en")
    license: str = setting("license identifier of the data, for the dataset card", default="unknown")
    batch_rows: int = setting("documents that are counted at a time", default=1024, identity=False)

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise UserError(f"batch_rows={self.batch_rows} must be at least 1.")
        for name in ("title", "language", "license"):
            value = getattr(self, name)
            if not value.strip() or not value.isprintable():
                raise UserError(f"{name}={value!r} must be one line of text, not empty.")


def write_report_card(config: ReportConfig) -> dict[str, Any]:
    inputs = {"scored": config.scored} | ({"rewritten": config.rewritten} if config.rewritten else {})
    rows = {name: _checked(path, SCORED if name == "scored" else REWRITTEN) for name, path in inputs.items()}
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    cluster.start()
    cells = _count(config.scored, SCORED, count_originals, rows["scored"], config.batch_rows)
    if config.rewritten:
        cells |= _count(config.rewritten, REWRITTEN, count_rewritten, rows["rewritten"], config.batch_rows)
    card = build(cells, config.title, bool(config.rewritten))
    card["inputs"] = out.inputs  # fingerprints, not paths: the card is made to be published
    for name, content in (
        ("card.json", json.dumps(card, indent=1, ensure_ascii=False).encode()),
        ("card.html", render(card).encode()),
        ("card.png", draw(card)),
        ("README.md", write_readme(card, config.language, config.license).encode()),
    ):
        with fsspec.open(out.sub(name), "wb") as file:
            file.write(content)
    counted = sum(sums.documents for sums in cells.values())
    return out.commit(rows_in=sum(rows.values()), rows_out=counted, headline=card["headline"])


def _checked(path: str, needed: tuple[Column, ...]) -> int:
    """Rows of the dataset at `path`; UserError where a column is missing or there are none."""
    require(_wanted(needed), dataset.columns(path), f"'{path}'")
    rows = dataset.count(path)
    if rows == 0:
        raise UserError(f"'{path}' has no rows; a report card needs at least one document.")
    return rows


def _count(
    path: str, needed: tuple[Column, ...], count: Callable[[pa.Table], pa.Table], rows: int, batch_rows: int
) -> dict[Cell, Sums]:
    wanted = _wanted(needed)
    ds = dataset.read(path, wanted).select_columns([column.name for column in wanted])
    ds = ds.map_batches(count, batch_format="pyarrow", batch_size=batch_rows)
    done = 0

    def batches() -> Iterator[pa.Table]:
        nonlocal done
        for batch in ds.iter_batches(batch_format="pyarrow", batch_size=None):
            done += sum(sums[0] for sums in batch.column("sums").to_pylist() if sums)
            yield batch

    with progress.watch("report", rows, lambda: (done, "")):
        return merge(batches())


def _wanted(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    return tuple(column for column in columns if column.name in _NEEDED)


if __name__ == "__main__":
    from jobs.cli import main

    main("report")
