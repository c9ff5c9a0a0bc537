"""scored → rewritten: documents of score 1-3 rephrased, of 4-5 refused and then moralized.

Moral education retells the refusals that were kept, so it comes last: the parts `direct...` hold rephrased
texts and refusals, `moralize...` the pages (see `passes` for what follows the name).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from safety_ray import artifact, cluster, dataset, engine, filesystem, threshold
from safety_ray.engine import USAGE
from safety_ray.errors import UserError
from safety_ray.records import REWRITTEN, SCORED, Column, schema
from safety_ray.rewrite import estimate, tasks
from safety_ray.rewrite.passes import DRAFTS, TRIED, WRITTEN, Rewriter
from safety_ray.rewrite.settings import RewriteConfig
from safety_ray.score.classifier import Classifier

__all__ = ["RewriteConfig", "run"]

DIRECT, MORALIZE = "direct", "moralize"
_REFUSAL = (*REWRITTEN, Column("root_id", pa.string(), "the web document"))
_EMPTY = schema(
    (*REWRITTEN, Column("root_id", pa.string(), ""), Column("engine", pa.string(), ""))
).empty_table()


def run(config: RewriteConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output) or config.dry_run:
        Classifier.load(config.classifier, "cpu")  # what is missing fails here, not in an actor
        engine.check(config.engine)
        if config.judge.kind != "template":
            engine.check(config.judge)
    inputs = {"scored": config.scored, **artifact.local_input("classifier", config.classifier)}
    recipe_of = config.recipe_of()
    audit: dict[str, Any] = {}
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
        audit["threshold"] = threshold.audited(config.thresholds_from)
        recipe_of = config.recipe_of(audit["threshold"])
        if not recipe_of:
            raise UserError(
                f"thresholds_from: the audit's threshold {audit['threshold']} lies above all of "
                f"rephrase_scores={config.rephrase_scores} and refuse_scores={config.refuse_scores}."
            )
    if config.dry_run:
        cluster.start()
        return estimate.dry_run(config, recipe_of, _rewrite)
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    cluster.start()
    rows_in, done, outcomes = _rewrite(config, recipe_of, out)
    used = _used(out) if config.engine.kind != "template" else {}
    if not done.rows_out:  # a folder without Parquet files could not be read by the next stage
        dataset.write_table(_EMPTY, out.sub("data", "empty.parquet"))
    for name in (DRAFTS, TRIED):
        fs, root = filesystem.find(out.sub(name))
        if fs.exists(root):
            fs.rm(root, recursive=True)
    return out.commit(
        rows_in=rows_in, rows_out=done.rows_out, set_aside=done.set_aside, engine=config.engine.label,
        balanced=True, attempts=outcomes, **audit, **used,
    )  # fmt: skip


def _used(out: artifact.Artifact) -> dict[str, Any]:
    """The tokens that the engine counted, over all attempts; nothing where it counted none."""
    folder = out.sub(DRAFTS, WRITTEN)
    fs, root = filesystem.find(folder)
    if not fs.exists(root):
        return {}
    columns = dataset.table(folder, list(USAGE))
    tokens = {name: pc.sum(columns.column(name)).as_py() or 0 for name in USAGE}
    if not tokens["prompt_tokens"]:
        return {}
    share = tokens["cached_tokens"] / tokens["prompt_tokens"]
    print(
        f"{tokens['prompt_tokens']:,} prompt tokens, {share:.0%} of them from the engine's prefix cache, and "
        f"{tokens['reply_tokens']:,} reply tokens",
        flush=True,
    )
    return {"tokens": tokens}


def _rewrite(
    config: RewriteConfig, recipe_of: dict[int, str], out: artifact.Artifact
) -> tuple[int, dataset.Counts, dict[str, Any]]:
    """All passes into `out`: tasks, what became of them, and that for each part."""
    rewriter = Rewriter(config, out)

    def documents() -> ray.data.Dataset:
        return dataset.read(config.scored, SCORED).map_batches(
            partial(tasks.from_documents, recipe_of=recipe_of, draws=config.draws()), batch_format="pyarrow"
        )

    def refusals() -> ray.data.Dataset:
        return dataset.read(out.sub("data"), _REFUSAL).map_batches(
            partial(tasks.from_refusals, draws=config.draws()), batch_format="pyarrow"
        )

    rows_in = dataset.count_where(config.scored, "score", list(recipe_of))
    done = rewriter.tried(DIRECT, documents, "id", rows_in)
    if "moralize" in config.recipes and done.rows_out:
        refused = dataset.count_where(out.sub("data"), "recipe", ["refuse"])
        pages = rewriter.tried(MORALIZE, refusals, "id", refused)
        rows_in += refused
        done = dataset.Counts(done.rows_out + pages.rows_out, done.set_aside + pages.set_aside)
    dataset.check_share(out.path, done, config.max_set_aside)
    return rows_in, done, rewriter.outcomes([DIRECT, MORALIZE])
