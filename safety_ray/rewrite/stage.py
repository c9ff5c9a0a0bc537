"""scored → rewritten: documents of score 1-3 rephrased, of 4-5 refused and then moralized.

Two passes, for moral education retells the refusals that were kept: `data/direct` holds rephrased
texts and refusals, `data/moralize` the pages. With a language model a pass first writes its drafts
to disk and then scores them, so that the model and the classifier never need room at the same time
and an interrupted run keeps every reply it has paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import ray.data

from safety_ray import artifact, dataset, engine, threshold
from safety_ray.config import setting
from safety_ray.engine import EngineConfig
from safety_ray.errors import UserError
from safety_ray.records import REWRITTEN, SCORED, SCORES, Column, schema
from safety_ray.rewrite import tasks, template
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.score.classifier import Classifier
from safety_ray.score.pool import Pool
from safety_ray.score.stage_pool import score

DIRECT, MORALIZE = "direct", "moralize"
_REFUSAL = (*REWRITTEN, Column("root_id", pa.string(), "the web document"))


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteConfig(Pool):
    """Rewrites scored documents: mild ones are rephrased, harmful ones refused and moralized."""

    scored: str = setting("dataset with id, text and score")
    classifier: str = setting("folder of a finished fit; every rewritten text is scored with it")
    output: str = setting("folder to write")
    engine: EngineConfig = setting("what writes the texts", factory=EngineConfig)
    recipes: list[str] = setting("which of the recipes to run", factory=lambda: list(RECIPES))
    rephrase_scores: list[int] = setting("scores that are rephrased", factory=lambda: [1, 2, 3])
    refuse_scores: list[int] = setting("scores that are refused, then moralized", factory=lambda: [4, 5])
    thresholds_from: str = setting(
        "a finished audit: documents with scores below its threshold are left as they are", default=""
    )
    max_set_aside: float = setting("share of tasks set aside above which the job fails", default=0.5)
    seed: int = setting("seed of styles, names and phrases", default=0)

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        for name in self.recipes:
            if name not in RECIPES:
                raise UserError(f"recipes: '{name}' is none of {', '.join(RECIPES)}.")
        if "moralize" in self.recipes and "refuse" not in self.recipes:
            raise UserError("recipes: moralize retells refusals, so it needs refuse beside it.")
        if not self.recipes:
            raise UserError(f"recipes is empty; choose from {', '.join(RECIPES)}.")
        for key, scores in (("rephrase_scores", self.rephrase_scores), ("refuse_scores", self.refuse_scores)):
            if any(not 1 <= s < SCORES for s in scores):
                raise UserError(
                    f"{key}={scores}: a score that can be lowered lies between 1 and {SCORES - 1}."
                )
        both = sorted(set(self.rephrase_scores) & set(self.refuse_scores))
        if both:
            raise UserError(f"score {both[0]} stands in rephrase_scores and in refuse_scores; choose one.")
        if not 0 <= self.max_set_aside <= 1:
            raise UserError("max_set_aside lies in [0, 1].")

    def recipe_of(self, threshold: int = 1) -> dict[int, str]:
        """The recipe of each score that has one; scores below `threshold` have none."""
        bands = {"rephrase": self.rephrase_scores, "refuse": self.refuse_scores}
        found = {s: name for name, scores in bands.items() if name in self.recipes for s in scores}
        return {score: name for score, name in found.items() if score >= threshold}


def run(config: RewriteConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output):
        Classifier.load(config.classifier, "cpu")  # what is missing fails here, not in an actor
        engine.check(config.engine)
    inputs = {"scored": config.scored, "classifier": config.classifier}
    recipe_of = config.recipe_of()
    audit: dict[str, Any] = {}
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
        audit["threshold"] = threshold.audited(config.thresholds_from)
        recipe_of = config.recipe_of(audit["threshold"])
    if audit and not recipe_of:
        raise UserError(
            f"thresholds_from: the audit's threshold {audit['threshold']} lies above all of "
            f"rephrase_scores={config.rephrase_scores} and refuse_scores={config.refuse_scores}."
        )
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    dataset.start()
    chosen: dict[str, Any] = {"seed": config.seed, "engine": config.engine.label}
    direct = dataset.read(config.scored, SCORED).map_batches(
        partial(tasks.from_documents, recipe_of=recipe_of, **chosen), batch_format="pyarrow"
    )
    rows_in = dataset.count_where(config.scored, "score", list(recipe_of))
    done = one_pass(DIRECT, direct, rows_in, config, out)
    if "moralize" in config.recipes and done.rows_out:
        refusals = out.sub("data", DIRECT)
        moral = dataset.read(refusals, _REFUSAL).map_batches(
            partial(tasks.from_refusals, **chosen), batch_format="pyarrow"
        )
        more = dataset.count_where(refusals, "recipe", ["refuse"])
        second = one_pass(MORALIZE, moral, more, config, out)
        rows_in += more
        done = dataset.Counts(done.rows_out + second.rows_out, done.set_aside + second.set_aside)
    dataset.check_share(out.path, done, config.max_set_aside)
    if not done.rows_out:  # a folder without Parquet files could not be read by the next stage
        dataset.write_table(_EMPTY, out.sub("data", "empty.parquet"))
    _remove(out.sub("drafts"))
    return out.commit(
        rows_in=rows_in, rows_out=done.rows_out, set_aside=done.set_aside, engine=config.engine.label,
        **audit,
    )  # fmt: skip


_EMPTY = schema(
    (*REWRITTEN, Column("root_id", pa.string(), ""), Column("engine", pa.string(), ""))
).empty_table()


def one_pass(
    name: str, todo: ray.data.Dataset, total: int, config: RewriteConfig, out: artifact.Artifact
) -> dataset.Counts:
    """Write, read, score and judge the texts of `todo`; rows go to the part `name` of `out`."""
    if not total:
        return dataset.Counts(0, 0)
    kind = config.engine.kind
    write = engine.processor(config.engine, template=partial(template.write, seed=config.seed))
    # Blocks of a write task's size from here on: they are what actors share and what a failure repeats.
    todo = todo.repartition(target_num_rows_per_block=config.write_rows, strict=True)
    drafts = write(todo).map_batches(partial(tasks.read_replies, seed=config.seed), batch_format="pyarrow")
    resume_by, read_as = "source_id", "id"
    if kind != "template":
        folder = artifact.Artifact(out.sub("drafts", name), {}, {})
        dataset.write(
            drafts, folder, label=f"{name} drafts", total=total, write_rows=config.write_rows,
            max_set_aside=1.0, resume_by=resume_by, read_as=read_as,
        )  # fmt: skip
        drafts = dataset.read(folder.sub("data"), ())
        resume_by = "id"
    judged = score(drafts, config, config.classifier, total).map_batches(
        partial(tasks.settle, reason_column=dataset.REASON), batch_format="pyarrow"
    )
    return dataset.write(
        judged, out, label=name, total=total, write_rows=config.write_rows,
        max_set_aside=1.0, resume_by=resume_by, read_as=read_as, part=name,
    )  # fmt: skip


def _remove(path: str) -> None:
    fs, root = fsspec.core.url_to_fs(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)
