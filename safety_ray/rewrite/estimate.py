"""A dry run: a sample is rewritten, and what all of it would take is told with an interval."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray import dataset, filesystem
from safety_ray.artifact import Artifact
from safety_ray.engine import SECONDS, USAGE
from safety_ray.errors import UserError
from safety_ray.records import SCORED, stable_hash
from safety_ray.rewrite.settings import RewriteConfig

_DRAWS, _TAILS = 2_000, (2.5, 97.5)
_USED = ["id", "root_id", "recipe", "attempt", *USAGE, SECONDS]
Rewrite = Callable[[RewriteConfig, dict[int, str], Artifact], tuple[int, dataset.Counts, dict[str, Any]]]


def dry_run(config: RewriteConfig, recipe_of: dict[int, str], rewrite: Rewrite) -> dict[str, Any]:
    """Rewrite a sample into `<output>.dry-run` and say what all documents would take; the estimate.

    Tokens come with a 95% interval: percentiles of a bootstrap over the sampled documents, recipe by
    recipe. The speed is that of the sample in one engine, which a full run keeps fuller.
    """
    if config.engine.kind == "template":
        raise UserError("dry_run measures what a language model takes: set engine.kind to vllm or openai.")
    folder = f"{config.output}.dry-run"
    fs, root = filesystem.find(folder)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    sample = _sample(config, recipe_of)
    if not len(sample):
        raise UserError(f"'{config.scored}' has no document with a score that is rewritten.")
    dataset.write_table(sample, f"{folder}/sample/sample.parquet")
    out = Artifact(f"{folder}/rewritten", {}, {})
    rows = max(config.engine.batch_size, len(sample))
    engine = replace(config.engine, batch_size=rows, concurrency=1, max_concurrency=0)
    one = replace(config, scored=f"{folder}/sample", output=out.path, engine=engine, dry_run=False)
    _, counts, _ = rewrite(one, recipe_of, out)
    usage = dataset.table(f"{out.path}/drafts/written", _USED)
    estimate = _estimate(config, recipe_of, sample, usage) | {
        "accepted_share": round(counts.rows_out / max(1, counts.rows_out + counts.set_aside), 3),
        "sample": folder,
    }
    with fs.open(f"{root}/estimate.json", "w") as file:
        json.dump(estimate, file, indent=1)
    print(_told(estimate), flush=True)
    return estimate


def _sample(config: RewriteConfig, recipe_of: dict[int, str]) -> pa.Table:
    """As many documents as `dry_run_rows`, those with the lowest hashes: the same ones every time."""

    def hashed(batch: pa.Table, most: int) -> pa.Table:
        batch = batch.filter(
            pa.array([s in recipe_of for s in batch.column("score").to_pylist()], pa.bool_())
        )
        ranks = [stable_hash(config.seed, "dry run", id) for id in batch.column("id").to_pylist()]
        batch = batch.append_column("rank", pa.array(ranks, pa.uint64()))
        return batch.sort_by("rank").slice(0, most)

    names = [
        c for c in ("id", "text", "score", "chunk_scores", "probs") if c in dataset.columns(config.scored)
    ]
    best = partial(hashed, most=config.dry_run_rows)
    found: pa.Table | None = None
    lowest = (
        dataset.read(config.scored, SCORED).select_columns(names).map_batches(best, batch_format="pyarrow")
    )
    for block in lowest.iter_batches(batch_format="pyarrow", batch_size=None):
        both = block if found is None else pa.concat_tables([found, block])
        found = both.sort_by("rank").slice(0, config.dry_run_rows)
    return pa.table({}) if found is None else found.drop_columns(["rank"])


def _estimate(
    config: RewriteConfig, recipe_of: dict[int, str], sample: pa.Table, usage: pa.Table
) -> dict[str, Any]:
    taken: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    seconds: dict[tuple[bool, int, bool], float] = defaultdict(float)
    for row in usage.to_pylist():
        taken[row["root_id"]] += [row["prompt_tokens"] or 0, row["reply_tokens"] or 0]
        # The engine has all rows of a pass at once: the last one's reply is when it was done.
        key = (row["recipe"] == "moralize", row["attempt"], "#" in row["id"].rsplit("/", 1)[1])
        seconds[key] = max(seconds[key], row[SECONDS] or 0.0)
    rng = np.random.default_rng(config.seed)
    total, draws = np.zeros(2), np.zeros((_DRAWS, 2))
    documents = 0
    for recipe in sorted(set(recipe_of.values())):
        scores = [score for score, name in recipe_of.items() if name == recipe]
        there = dataset.count_where(config.scored, "score", scores)
        rows = sample.select(["id", "score"]).to_pylist()
        each = np.array([taken[row["id"]] for row in rows if row["score"] in scores])
        if not len(each):
            continue  # so few that the sample has none
        picks = rng.integers(len(each), size=(_DRAWS, len(each)))
        total, draws = total + there * each.mean(0), draws + there * each[picks].mean(1)
        documents += there
    low, high = np.percentile(draws, _TAILS, axis=0)
    engine_seconds = max(sum(seconds.values()), 1e-9)
    speed = float(sum(taken.values(), np.zeros(2))[1]) / engine_seconds
    arguments = config.engine.engine_args
    gpus = int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))

    prompt, reply = ([float(n[column]) for n in (total, low, high)] for column in (0, 1))
    hours = [tokens / speed / 3600 if speed else 0.0 for tokens in reply]
    estimate: dict[str, Any] = {
        "documents": documents,
        "sampled": len(sample),
        "prompt_tokens": [round(n) for n in prompt],
        "reply_tokens": [round(n) for n in reply],
        "reply_tokens_per_second": round(speed, 1),
        "engine_hours": [round(h, 3) for h in hours],
    }
    if config.engine.kind == "vllm":
        estimate["gpu_hours"] = [round(gpus * h, 3) for h in hours]
    if config.price_per_hour:
        estimate["price"] = [round(config.price_per_hour * h, 2) for h in hours]
    return estimate


def _told(estimate: dict[str, Any]) -> str:
    """The estimate in a few lines."""
    lines = [
        f"{estimate['documents']:,} documents, estimated from {estimate['sampled']:,} of them "
        f"(95% interval in brackets); {estimate['accepted_share']:.0%} of the sample's texts were kept."
    ]
    names = {
        "prompt_tokens": "prompt tokens",
        "reply_tokens": "reply tokens",
        "engine_hours": "hours of one engine",
        "gpu_hours": "GPU-hours",
        "price": "price",
    }
    for key, name in names.items():
        if key in estimate:
            value, low, high = (f"{n:,.0f}" if n >= 100 else f"{n:,.3g}" for n in estimate[key])
            lines.append(f"  {name:<20} {value:>14}  [{low}, {high}]")
    lines.append(f"  {'reply tokens/s':<20} {estimate['reply_tokens_per_second']:>14,.1f}  of one engine")
    lines.append(f"  the sample and its texts are in {estimate['sample']}")
    return "\n".join(lines)
