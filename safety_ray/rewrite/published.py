"""The form in which the paper's rewritten sets are published: `id`, `text` and `metadata`.

| set              | configs                                            |
|------------------|----------------------------------------------------|
| safeweb          | score_1_rephrased ... score_5_rephrased            |
| refuseweb        | score_4_refusal, score_5_refusal                   |
| moral_education  | score_4_morals, score_5_morals                     |

A row's id is that of the web document at its root, and the config's name holds its score. Everything
else that a row carries lies in the struct `metadata`. (In the published sets `metadata.score` and
`int_score` are FineWeb-Edu's educational scores; ours says `source_score` and `safety_score`.)
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from safety_ray.core.errors import UserError


class Published(NamedTuple):
    """What a recipe's texts are called there."""

    set: str
    what: str
    title: str


SETS = {
    "rephrase": Published("safeweb", "rephrased", "Web documents rephrased so that the harm is explained"),
    "refuse": Published("refuseweb", "refusal", "Dialogues in which harmful requests are refused"),
    "moralize": Published("moral_education", "morals", "Refusals retold as pages of moral education"),
}
_CONFIG = re.compile(r"score_([1-5])_(rephrased|refusal|morals)")
_RENAMED = {"score": "safety_score", "probs": "safety_probs"}
_TOP = ("id", "text", "root_id")


def config_name(recipe: str, score: int) -> str:
    """The name of the config that holds a recipe's texts for documents of `score`."""
    return f"score_{score}_{SETS[recipe].what}"


def recipe_and_score(path: str) -> tuple[str, int]:
    """Recipe and the web documents' score of the config that the file `path` is of; UserError if none."""
    found = _CONFIG.findall(path)
    if not found:
        raise UserError(
            f"'{path}' lies in no folder of a published config: it should be named like score_1_rephrased, "
            "score_4_refusal or score_4_morals."
        )
    score, what = found[-1]
    return next(recipe for recipe, one in SETS.items() if one.what == what), int(score)


def view(batch: pa.Table, recipe: str, score: int) -> pa.Table:
    """The rows of one config as `id`, `text`, `metadata`, out of rows of REWRITTEN."""
    wanted = pc.and_(pc.equal(batch.column("recipe"), recipe), pc.equal(batch.column("source_score"), score))
    batch = batch.filter(wanted)
    names = [name for name in batch.column_names if name not in _TOP]
    columns = [batch.column(name).combine_chunks() for name in names]
    labels = [_RENAMED.get(name, name) for name in names]
    return pa.table(
        {
            "id": batch.column("root_id" if "root_id" in batch.column_names else "source_id"),
            "text": batch.column("text"),
            "metadata": pa.StructArray.from_arrays(columns, labels),
        }
    )


def rewritten(batch: pa.Table, recipe: str, score: int) -> pa.Table:
    """Rows of one published config as rewritten rows: their id names the recipe, as `rewrite` does."""
    roots = batch.column("id").cast(pa.string())
    inner = batch.column("metadata").combine_chunks() if "metadata" in batch.column_names else None
    style = pa.nulls(len(batch), pa.string())
    if inner is not None and "style" in [field.name for field in inner.type]:
        style = pc.struct_field(inner, "style").cast(pa.string())
    columns: dict[str, Any] = {
        "id": pc.binary_join_element_wise(roots, pa.scalar(recipe), "/"),
        "text": batch.column("text").cast(pa.string()),
        "source_id": roots,
        "root_id": roots,
        "recipe": pa.array([recipe] * len(batch), pa.string()),
        "style": style,
        "source_score": pa.array([score] * len(batch), pa.int8()),
    }
    if inner is not None:
        columns["metadata"] = inner
    return pa.table(columns)


def card(recipe: str, scores: list[int]) -> str:
    """README.md of a set; its front matter says which files a config has, for the datasets library."""
    one = SETS[recipe]
    configs = [
        {"config_name": (name := config_name(recipe, score)), "data_files": f"{name}/*.parquet"}
        for score in scores
    ]
    front = {"configs": configs, "tags": ["safety-pretraining", "arxiv:2504.16980"]}
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {one.set}\n\n{one.title}. Each row has `id` "
        "(the web document it comes from), `text`, and `metadata`: style, engine, the document's harm score "
        "(`source_score`, 0-5) and that of this text (`safety_score`).\n"
    )
