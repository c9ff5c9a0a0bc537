"""Convert rewritten rows to the form of the paper's published sets, and back: `id`, `text` and `metadata`.

| set              | configs                                            |
|------------------|----------------------------------------------------|
| safeweb          | score_1_rephrased ... score_5_rephrased            |
| refuseweb        | score_4_refusal, score_5_refusal                   |
| moral_education  | score_4_morals, score_5_morals                     |

A row's id is that of its web document, and the config's name contains the document's score. All other columns
are in the struct `metadata`. (In the paper's sets `metadata.score` and `int_score` are FineWeb-Edu's
educational scores; here they are named `source_score` and `safety_score`.)
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from safety_ray.core.errors import UserError
from safety_ray.rewrite.recipes import RECIPES

SETS = {recipe.name: recipe.published for recipe in RECIPES.values() if recipe.published}
"""The published set of each recipe that has one."""
_RECIPE_OF = {published.suffix: recipe for recipe, published in SETS.items()}
_CONFIG = re.compile(rf"score_([1-5])_({'|'.join(_RECIPE_OF)})")
_RENAMED = {"score": "safety_score", "probs": "safety_probs"}
_TOP_LEVEL = ("id", "text", "root_id")


def config_name(recipe: str, score: int) -> str:
    """Return the name of the config with a recipe's texts for documents of `score`."""
    return f"score_{score}_{SETS[recipe].suffix}"


def recipe_and_score(path: str) -> tuple[str, int]:
    """Return the recipe and the documents' score of the config that the file `path` belongs to.

    Raises UserError if no folder of the path is named like a published config.
    """
    matches = _CONFIG.findall(path)
    if not matches:
        raise UserError(
            f"'{path}' is in no folder of a published config; a config is named like score_1_rephrased, "
            "score_4_refusal or score_4_morals."
        )
    score, suffix = matches[-1]
    return _RECIPE_OF[suffix], int(score)


def to_published(batch: pa.Table, recipe: str, score: int) -> pa.Table:
    """Return the rows of one config as `id`, `text` and `metadata`."""
    selected = pc.and_(
        pc.equal(batch.column("recipe"), recipe), pc.equal(batch.column("source_score"), score)
    )
    batch = batch.filter(selected)
    hidden = {*_TOP_LEVEL, *(_RENAMED[name] for name in _RENAMED if name in batch.column_names)}
    names = [name for name in batch.column_names if name not in hidden]
    columns = [batch.column(name).combine_chunks() for name in names]
    labels = [_RENAMED.get(name, name) for name in names]
    return pa.table(
        {
            "id": batch.column("root_id" if "root_id" in batch.column_names else "source_id"),
            "text": batch.column("text"),
            "metadata": pa.StructArray.from_arrays(columns, labels),
        }
    )


def from_published(batch: pa.Table, recipe: str, score: int) -> pa.Table:
    """Return the rows of one published config as rewritten rows, with ids as `rewrite` makes them."""
    roots = batch.column("id").cast(pa.string())
    metadata = batch.column("metadata").combine_chunks() if "metadata" in batch.column_names else None
    style = pa.nulls(len(batch), pa.string())
    if (
        metadata is not None
        and pa.types.is_struct(metadata.type)
        and "style" in [field.name for field in metadata.type]
    ):
        style = pc.struct_field(metadata, "style").cast(pa.string())
    columns: dict[str, Any] = {
        "id": pc.binary_join_element_wise(roots, pa.scalar(recipe), "/"),
        "text": batch.column("text").cast(pa.string()),
        "source_id": roots,
        "root_id": roots,
        "recipe": pa.array([recipe] * len(batch), pa.string()),
        "style": style,
        "source_score": pa.array([score] * len(batch), pa.int8()),
    }
    if metadata is not None:
        columns["metadata"] = metadata
    return pa.table(columns)


def dataset_card(recipe: str, scores: list[int]) -> str:
    """Return README.md of a set. Its front matter names the files of each config for the datasets library."""
    published = SETS[recipe]
    configs = [
        {"config_name": (name := config_name(recipe, score)), "data_files": f"{name}/*.parquet"}
        for score in scores
    ]
    front_matter = {"configs": configs, "tags": ["safety-pretraining", "arxiv:2504.16980"]}
    return (
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---\n\n# {published.name}\n\n"
        f"{published.title}. Each row has `id` (its web document), `text`, and `metadata`: style, engine, "
        "the document's harm score (`source_score`, 0-5) and that of this text (`safety_score`).\n"
    )
