"""rewritten ↔ published: the three sets in the form of the paper's, and those as a rewritten dataset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import fsspec
import ray.data

from safety_ray.core import artifact, cluster, dataset, filesystem, progress
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN
from safety_ray.rewrite import published
from safety_ray.rewrite.published import SETS

_MADE = tuple(c for c in REWRITTEN if c.name in ("text", "recipe", "source_score", "source_id"))
_ROW = tuple(c for c in REWRITTEN if c.name in ("id", "text"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Writes rewritten rows as safeweb, refuseweb and moral_education, or reads such sets."""

    input: str = setting(
        "to: a rewritten dataset; from: a folder of published sets, or of one (local, hf://datasets/...)"
    )
    output: str = setting("folder to write", identity=False)
    direction: Literal["to", "from"] = setting("to the published form, or from it", default="to")
    write_rows: int = setting(
        "rows in a write task: what a failure repeats at most", default=4096, identity=False
    )

    def __post_init__(self) -> None:
        if self.write_rows < 1:
            raise UserError("write_rows must be positive.")


def convert_published(config: PublishConfig) -> dict[str, Any]:
    out = artifact.begin(config.output, config, inputs={"input": config.input})
    if out.record is not None:
        return out.record
    cluster.start()
    return _to(config, out) if config.direction == "to" else _from(config, out)


def _to(config: PublishConfig, out: artifact.Artifact) -> dict[str, Any]:
    dataset.read(config.input, _MADE)  # names what is missing
    there = dataset.count_groups(config.input, ["recipe", "source_score"])
    unknown = sorted(str(recipe) for recipe, _ in there if recipe not in SETS)
    if unknown:
        raise UserError(f"'{config.input}' has rows of recipe '{unknown[0]}', which no published set holds.")
    written: dict[str, int] = {}
    for recipe, one in SETS.items():
        scores = sorted(score for made, score in there if made == recipe)
        for score in scores:
            name = published.config_name(recipe, score)
            folder, rows = out.sub(one.set, name), there[recipe, score]
            ds = dataset.read(config.input, _MADE).map_batches(
                partial(published.view, recipe=recipe, score=score), batch_format="pyarrow"
            )
            with progress.watch(name, rows, progress.RowCounter(folder)):
                ds.write_parquet(folder, mode="overwrite")
            written[f"{one.set}/{name}"] = rows
        if scores:
            with fsspec.open(out.sub(one.set, "README.md"), "w", encoding="utf-8") as file:
                file.write(published.card(recipe, scores))
    return out.commit(rows_in=there.total(), rows_out=sum(written.values()), sets=written)


def _from(config: PublishConfig, out: artifact.Artifact) -> dict[str, Any]:
    fs, root = filesystem.find(config.input)
    files = sorted(name for name in fs.find(root) if name.endswith(".parquet"))
    if not files:
        raise UserError(f"'{config.input}' holds no Parquet files of published sets.")
    by_config: dict[tuple[str, int], list[str]] = {}
    for name in files:
        path = fs.unstrip_protocol(name) if "://" in config.input else name
        by_config.setdefault(published.recipe_and_score(name), []).append(path)
    total, done = 0, dataset.Counts(0, 0)
    for (recipe, score), paths in sorted(by_config.items()):
        for path in paths:
            dataset.read(path, _ROW)  # names what a file lacks
        ds = ray.data.read_parquet(paths).map_batches(
            partial(published.rewritten, recipe=recipe, score=score), batch_format="pyarrow"
        )
        counts = dataset.write(
            ds, out, label=published.config_name(recipe, score), total=None, write_rows=config.write_rows,
            resume_by=None, part=published.config_name(recipe, score),
        )  # fmt: skip
        total += sum(dataset.count(path) for path in paths)
        done = dataset.Counts(done.rows_out + counts.rows_out, done.rejected + counts.rejected)
    return out.commit(rows_in=total, rows_out=done.rows_out, rejected=done.rejected)


if __name__ == "__main__":
    from jobs.cli import main

    main("publish")
