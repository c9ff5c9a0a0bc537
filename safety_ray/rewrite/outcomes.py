"""Count accepted and rejected rows by kind of reason, and tokens, for the record of a rewriting run.

A retried row is deleted from the rejected rows of its first attempt. Its reason is counted before, in
`<output>/outcomes/<part>.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from safety_ray.core import dataset, filesystem, parquet
from safety_ray.core.artifact import Artifact
from safety_ray.llm.engine import USAGE
from safety_ray.rewrite.acceptance import KINDS, reason_kind

OUTCOMES = "outcomes"


def drop_retried(out: Artifact, part: str) -> None:
    """Delete the rejected rows of `part`, which a later attempt has written again, after counting them."""
    counts = dataset.written(out, part)
    if not counts or not counts.rejected:
        return
    fs, path = filesystem.find(out.sub(OUTCOMES, f"{part}.json"))
    if not fs.exists(path):
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        filesystem.write_file(fs, path, json.dumps(count_reasons(out, part)).encode())
    dataset.drop_rejected(out, part)


def count_reasons(out: Artifact, part: str) -> dict[str, int]:
    """Return the number of rejected rows of `part` by kind of reason."""
    counts = dataset.written(out, part)
    by_kind: Counter[str] = Counter()
    if counts and counts.rejected:
        groups = dataset.count_groups(out.sub("rejected", part), [dataset.REASON])
        for (reason,), rows in groups.items():
            by_kind[reason_kind(reason)] += rows
    return {kind: by_kind[kind] for kind in (*KINDS, *sorted(by_kind)) if by_kind[kind]}


def read_outcomes(out: Artifact, parts: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the number of accepted rows, and of rejected rows by kind of reason, for each part with rows."""
    outcomes = {}
    for part in parts:
        counts = dataset.written(out, part)
        if counts is None:
            continue
        fs, path = filesystem.find(out.sub(OUTCOMES, f"{part}.json"))
        reasons = json.loads(fs.cat_file(path)) if fs.exists(path) else count_reasons(out, part)
        if counts.rows_out or reasons:
            outcomes[part] = {"accepted": counts.rows_out, **reasons}
    return outcomes


def count_tokens(generated: str) -> dict[str, Any]:
    """Return and print the tokens of all replies below the folder `generated`; {} if none were counted."""
    tokens = dict.fromkeys(USAGE, 0)
    if dataset.has_files(generated):
        with parquet.readable(*dataset.files(generated)):
            for batch in dataset.rows_of(generated).to_batches(columns=list(USAGE)):
                for name in USAGE:
                    tokens[name] += pc.sum(batch.column(name)).as_py() or 0
    if not tokens["prompt_tokens"]:
        return {}
    share = tokens["cached_tokens"] / tokens["prompt_tokens"]
    print(
        f"{tokens['prompt_tokens']:,} prompt tokens ({share:.0%} from the prefix cache), "
        f"{tokens['reply_tokens']:,} reply tokens",
        flush=True,
    )
    return {"tokens": tokens}


def count_engines(out: Artifact) -> dict[str, dict[str, int]]:
    """Return the numbers of accepted and rejected texts of each engine, by its label."""
    engines: dict[str, dict[str, int]] = {}
    for folder, outcome in (("data", "accepted"), ("rejected", "rejected")):
        if dataset.has_files(out.sub(folder)):
            for (engine,), rows in sorted(dataset.count_groups(out.sub(folder), ["engine"]).items()):
                engines.setdefault(engine, {"accepted": 0, "rejected": 0})[outcome] = rows
    return engines
