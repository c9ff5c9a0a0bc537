"""A dataset through the judge: every row is asked about once, and once more where no judgement came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from safety_ray import dataset, engine, filesystem
from safety_ray.artifact import Artifact
from safety_ray.config import setting
from safety_ray.engine import EngineConfig
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT
from safety_ray.score import label
from safety_ray.score.label import LABEL, Names

if TYPE_CHECKING:
    import ray.data

FIRST, AGAIN = "first", "again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge(EngineConfig):
    """The engine that judges: its likeliest reply, and a short one."""

    max_tokens: int = setting("tokens in a reply at most; a reply cut there is an error", default=256)
    temperature: float = setting("0 takes the most likely token", default=0.0)


def check_is_model(judge: Judge, key: str) -> None:
    """UserError where the settings under `key` name no language model."""
    if judge.kind == "template":
        raise UserError(f"a judge needs a language model: set {key}.kind to vllm or openai.")


def judge_rows(
    ds: ray.data.Dataset,
    out: Artifact,
    judge: Judge,
    *,
    seed: int,
    total: int,
    write_rows: int,
    names: Names = LABEL,
    finish: Callable[[pa.Table], pa.Table] | None = None,
) -> dataset.Counts:
    """Write `ds` with the judge's columns `names` into `out`; rows without a judgement are set aside.

    Two passes, `data/first` and `data/again`: a row whose reply is no judgement is asked about a
    second time, with another sampler seed and a reminder of the form. A broken run goes on where
    it stopped. `finish` adds what follows from a judgement to each batch.
    """
    # Strict blocks of a write task's size: what a failure repeats at most.
    ds = ds.repartition(target_num_rows_per_block=write_rows, strict=True)
    counts = _one_pass(ds, out, judge, seed, total, write_rows, names, finish, again=False)
    if counts.set_aside:
        failed = dataset.read(out.sub("set_aside", FIRST), DOCUMENT)
        other = replace(judge, seed=judge.seed + 1)
        _one_pass(failed, out, other, seed, counts.set_aside, write_rows, names, finish, again=True)
        # The second pass has these rows now. The folder stays: it says that the first one is whole.
        fs, root = filesystem.find(out.sub("set_aside", FIRST))
        for name in fs.find(root):
            fs.rm(name)
    second = dataset.written(out, AGAIN) or dataset.Counts(0, 0)
    return dataset.Counts(counts.rows_out + second.rows_out, second.set_aside)


def _one_pass(
    ds: ray.data.Dataset,
    out: Artifact,
    judge: Judge,
    seed: int,
    total: int,
    write_rows: int,
    names: Names,
    finish: Callable[[pa.Table], pa.Table] | None,
    again: bool,
) -> dataset.Counts:
    start = judge.kind == "vllm" and not judge.structured
    asked = ds.map_batches(
        partial(label.ask, seed=seed, start=start, names=names, again=again), batch_format="pyarrow"
    )
    judged = engine.processor(judge, schema=label.SCHEMA)(asked).map_batches(
        partial(label.read, started=start, engine=judge.label, reason_column=dataset.REASON, names=names),
        batch_format="pyarrow",
    )
    if finish is not None:
        judged = judged.map_batches(finish, batch_format="pyarrow")
    return dataset.write(
        judged, out, label="judge again" if again else "judge", total=total, write_rows=write_rows,
        max_set_aside=1.0, part=AGAIN if again else FIRST,
    )  # fmt: skip
