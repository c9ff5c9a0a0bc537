"""rewritten ↔ published: write rewritten rows as the paper's three sets, or read such sets as rewritten rows.

<output>/<set>/score_<score>_<suffix>/   to: one config of a set, as Parquet files
<output>/<set>/README.md                 to: the configs, for the datasets library
<output>/data/<config>/                  from: rewritten rows
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import fsspec

from safety_ray.core import artifact, cluster, dataset, filesystem, progress
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.dataset import Counts
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN, require
from safety_ray.rewrite import published
from safety_ray.rewrite.published import SETS

_REWRITTEN_COLUMNS = tuple(c for c in REWRITTEN if c.name in ("text", "recipe", "source_score", "source_id"))
_PUBLISHED_COLUMNS = tuple(c for c in REWRITTEN if c.name in ("id", "text"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Write rewritten rows as safeweb, refuseweb and moral_education, or read such sets."""

    input: str = setting(
        "to: a rewritten dataset; from: a folder of published sets, or of one (local, hf://datasets/...)"
    )
    output: str = setting("folder to write", identity=False)
    direction: Literal["to", "from"] = setting("to the published form, or from it", default="to")
    write_rows: int = setting("rows in a file; 0: files of up to 128 MB", default=0, identity=False)

    def __post_init__(self) -> None:
        if self.write_rows < 0:
            raise UserError(f"write_rows={self.write_rows} must be 0 or positive.")


def convert_published(config: PublishConfig) -> dict[str, Any]:
    """Convert `config.input`. Returns the record; a finished folder is skipped."""
    out = artifact.begin(config.output, config, inputs={"input": config.input})
    if out.record is not None:
        return out.record
    cluster.start()
    return write_sets(config, out) if config.direction == "to" else read_sets(config, out)


def write_sets(config: PublishConfig, out: Artifact) -> dict[str, Any]:
    """Write one folder for each set, with one config for each score. Returns the record."""
    dataset.read(config.input, _REWRITTEN_COLUMNS)  # raises if a column is missing
    counts = dataset.count_groups(config.input, ["recipe", "source_score"])
    unknown = sorted(str(recipe) for recipe, _ in counts if recipe not in SETS)
    if unknown:
        raise UserError(
            f"'{config.input}' has rows of recipe '{unknown[0]}', which has no published set; "
            f"the recipes with one are {', '.join(SETS)}."
        )
    if without := sum(rows for (_, score), rows in counts.items() if score is None):
        raise UserError(f"'{config.input}' has {without:,} rows without source_score, which must be 1 to 5.")
    rows_of: dict[str, int] = {}
    for recipe, set_ in SETS.items():
        scores = sorted(score for name, score in counts if name == recipe)
        for score in scores:
            name = published.config_name(recipe, score)
            folder = out.sub(set_.name, name)
            ds = dataset.read(config.input, _REWRITTEN_COLUMNS).map_batches(
                partial(published.to_published, recipe=recipe, score=score), batch_format="pyarrow"
            )
            with progress.watch(name, counts[recipe, score], progress.RowCounter(folder)):
                ds.write_parquet(folder, mode="overwrite", max_rows_per_file=config.write_rows or None)
            rows_of[f"{set_.name}/{name}"] = dataset.count(folder)
        if scores:
            with fsspec.open(out.sub(set_.name, "README.md"), "w", encoding="utf-8") as file:
                file.write(published.dataset_card(recipe, scores))
    return out.commit(rows_in=counts.total(), rows_out=sum(rows_of.values()), sets=rows_of)


def read_sets(config: PublishConfig, out: Artifact) -> dict[str, Any]:
    """Write the rows of all published configs below `config.input` as rewritten rows. Returns the record."""
    fs, root = filesystem.find(config.input)
    files = sorted(name for name in fs.find(root) if name.endswith(".parquet"))
    if not files:
        raise UserError(f"'{config.input}' has no Parquet files of published sets.")
    by_config: dict[tuple[str, int], list[str]] = {}
    for name in files:
        path = fs.unstrip_protocol(name) if "://" in config.input else name
        by_config.setdefault(published.recipe_and_score(name), []).append(path)
    rows_in, total = 0, Counts(0, 0)
    for (recipe, score), paths in sorted(by_config.items()):
        for path in paths:
            require(_PUBLISHED_COLUMNS, dataset.columns(path), f"'{path}'")
        ds = dataset.stream(paths).map_batches(
            partial(published.from_published, recipe=recipe, score=score), batch_format="pyarrow"
        )
        name = published.config_name(recipe, score)
        total += dataset.write(
            ds, out, label=name, total=None, write_rows=config.write_rows, resume_by=None, part=name
        )
        rows_in += sum(dataset.count(path) for path in paths)
    return out.commit(rows_in=rows_in, rows_out=total.rows_out, rejected=total.rejected)


if __name__ == "__main__":
    from jobs.cli import main

    main("publish")
