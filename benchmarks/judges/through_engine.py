"""Verdicts of judges that ask a language model, through an engine of `safety_ray.llm`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import ray

from safety_ray.core import cluster
from safety_ray.evaluate.judges import Answer, LmJudge, Verdict
from safety_ray.evaluate.judges.lm import add_messages, parse_replies, verdict_of
from safety_ray.judge.settings import Judge
from safety_ray.llm import engine


def judge_with_lm(
    judge: LmJudge, answers: Sequence[Answer], config: Judge, seed: int
) -> list[Verdict | None]:
    """Return one verdict per answer; None if the engine failed or its reply could not be parsed."""
    verdicts = [judge.decide(answer) for answer in answers]
    rows = [
        {"id": str(n), "prompt": answer.prompt, "text": answer.text}
        for n, answer in enumerate(answers)
        if verdicts[n] is None
    ]
    if not rows:
        return verdicts
    engine.check(config)
    cluster.start()
    start = config.kind == "vllm" and not config.structured
    requests = ray.data.from_arrow(pa.Table.from_pylist(rows)).map_batches(
        partial(add_messages, judge=judge, seed=seed, start=start), batch_format="pyarrow"
    )
    judged = engine.processor(config, schema=judge.schema)(requests).map_batches(
        partial(parse_replies, judge=judge, started=start), batch_format="pyarrow"
    )
    for row in judged.take_all():
        verdicts[int(row["id"])] = verdict_of(row)
    return verdicts
