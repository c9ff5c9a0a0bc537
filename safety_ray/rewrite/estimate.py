"""Estimate the tokens, hours and price of a full rewriting run from a sample."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core import dataset
from safety_ray.core.chunks import CHUNKS
from safety_ray.core.records import SCORED_TEXT, stable_hash
from safety_ray.llm.engine import SECONDS, USAGE
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.settings import RewriteConfig
from safety_ray.rewrite.tasks import is_chunk

_RESAMPLES, _INTERVAL = 2_000, (2.5, 97.5)
USAGE_COLUMNS = ["id", "root_id", "recipe", "attempt", *USAGE, SECONDS]
"""Columns of generated drafts that an estimate reads."""


def lowest_hashes(batch: pa.Table, scores: list[int], seed: int, limit: int) -> pa.Table:
    """Return the `limit` rows of `scores` with the lowest hashes of their ids, with the hash as `rank`."""
    batch = batch.filter(pa.array([s in scores for s in batch.column("score").to_pylist()], pa.bool_()))
    ranks = [stable_hash(seed, "dry run", id) for id in batch.column("id").to_pylist()]
    return batch.append_column("rank", pa.array(ranks, pa.uint64())).sort_by("rank").slice(0, limit)


def estimate(
    config: RewriteConfig,
    recipe_of: dict[int, str],
    documents: dict[int, int],
    sample: pa.Table,
    usage: pa.Table,
) -> dict[str, Any]:
    """Scale the tokens of a sample to all documents.

    `documents` counts them by score; `usage` has the columns `USAGE_COLUMNS`. Tokens are [mean, low, high]:
    the 95% interval is a bootstrap over the sampled documents, separately for each recipe. Throughput is
    that of one engine on the sample; a full run keeps engines busier.
    """
    tokens_of: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    seconds: dict[tuple[str | None, int, bool], float] = defaultdict(float)
    for row in usage.to_pylist():
        tokens_of[row["root_id"]] += [row["prompt_tokens"] or 0, row["reply_tokens"] or 0]
        # The engine gets all rows of a pass at once, so the last reply marks the end of the pass.
        key = (RECIPES[row["recipe"]].reads, row["attempt"], is_chunk(row["id"]))
        seconds[key] = max(seconds[key], row[SECONDS] or 0.0)
    rng = np.random.default_rng(stable_hash(config.seed, "estimate"))
    total, resampled = np.zeros(2), np.zeros((_RESAMPLES, 2))
    documents_total = 0
    rows = sample.select(["id", "score"]).to_pylist()
    for recipe in sorted(set(recipe_of.values())):
        scores = [score for score, name in recipe_of.items() if name == recipe]
        count = sum(documents[score] for score in scores)
        tokens = np.array([tokens_of[row["id"]] for row in rows if row["score"] in scores])
        if not len(tokens):
            continue  # too few documents to be in the sample
        picks = rng.integers(len(tokens), size=(_RESAMPLES, len(tokens)))
        total, resampled = total + count * tokens.mean(0), resampled + count * tokens[picks].mean(1)
        documents_total += count
    low, high = np.percentile(resampled, _INTERVAL, axis=0)
    speed = float(sum(tokens_of.values(), np.zeros(2))[1]) / max(sum(seconds.values()), 1e-9)
    arguments = config.engine.engine_args
    gpus = int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))
    prompt, reply = ([float(values[column]) for values in (total, low, high)] for column in (0, 1))
    hours = [tokens / speed / 3600 if speed else 0.0 for tokens in reply]
    values: dict[str, Any] = {
        "documents": documents_total,
        "sampled": len(sample),
        "prompt_tokens": [round(n) for n in prompt],
        "reply_tokens": [round(n) for n in reply],
        "reply_tokens_per_second": round(speed, 1),
        "engine_hours": [round(h, 3) for h in hours],
    }
    if config.engine.kind == "vllm":
        values["gpu_hours"] = [round(gpus * h, 3) for h in hours]
    if config.price_per_hour:
        values["price"] = [round(config.price_per_hour * h, 2) for h in hours]
    return values


def format_estimate(estimate: dict[str, Any]) -> str:
    """Format an estimate for the console."""
    lines = [
        f"{estimate['documents']:,} documents, estimated from {estimate['sampled']:,} of them "
        f"(95% interval in brackets); {estimate['accepted_share']:.0%} of the sample's texts were accepted."
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


def sample_documents(config: RewriteConfig, recipe_of: dict[int, str]) -> pa.Table:
    """Return the `dry_run_rows` documents with the lowest hashes: the same ones in every run."""
    optional = ("id", "text", "score", CHUNKS, "probs")
    names = [name for name in optional if name in dataset.columns(config.scored)]
    lowest = partial(lowest_hashes, scores=sorted(recipe_of), seed=config.seed, limit=config.dry_run_rows)
    scored = dataset.read(config.scored, SCORED_TEXT).select_columns(names)
    blocks = scored.map_batches(lowest, batch_format="pyarrow")
    sample = pa.table({})
    for block in blocks.iter_batches(batch_format="pyarrow", batch_size=None):
        sample = pa.concat_tables([sample, block]) if len(sample) else block
        sample = sample.sort_by("rank").slice(0, config.dry_run_rows)
    return sample.drop_columns(["rank"]) if len(sample) else sample
