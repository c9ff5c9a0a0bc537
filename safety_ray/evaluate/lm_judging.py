"""Judging of answers by a language model, through the engines of safety_ray/llm."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa

from safety_ray.core import dataset, filesystem
from safety_ray.core.artifact import Artifact
from safety_ray.core.records import Column
from safety_ray.evaluate.judges import JUDGES, Answer
from safety_ray.evaluate.judges.lm import HARMFUL, LABEL, PROBLEM, VALUE, LmJudge, add_messages, parse_replies
from safety_ray.evaluate.results import Row
from safety_ray.judge.settings import Judge
from safety_ray.llm import engine

_ANSWER = tuple(Column(name, pa.string(), "of the answer to judge") for name in ("id", "prompt", "text"))
_WRITE_ROWS = 64


def judge_answers(
    name: str, answers: list[Answer], config: Judge, out: Artifact, seed: int
) -> list[Row | None]:
    """Return the verdicts of the judge `name` as JSON values, None for each that cannot be parsed.

    An answer whose reply cannot be parsed is sent a second time, with another sampler seed and a reminder of
    the format. Verdicts are in `<output>/data/<judge>-first` and `-again`; an interrupted run keeps them.
    """
    judge = JUDGES[name].lm
    assert judge is not None
    decided = [judge.decide(answer) for answer in answers]
    undecided = {
        str(n): (answer.prompt, answer.text)
        for n, (answer, verdict) in enumerate(zip(answers, decided, strict=True))
        if verdict is None
    }
    verdicts: dict[str, Row] = {}
    first, again = f"{name}-first", f"{name}-again"
    for part in (first, again):
        rest = {id: texts for id, texts in undecided.items() if id not in verdicts}
        if rest:
            verdicts |= _judge_pass(part, rest, judge, config, out, seed, part == again)
    # The second pass has judged or rejected these rows. The empty folder marks the first pass as complete.
    fs, root = filesystem.find(out.sub("rejected", first))
    for file in fs.find(root) if fs.exists(root) else []:
        fs.rm(file)
    return [verdicts.get(str(n)) if verdict is None else asdict(verdict) for n, verdict in enumerate(decided)]


def _judge_pass(
    part: str,
    answers: dict[str, tuple[str, str]],
    judge: LmJudge,
    config: Judge,
    out: Artifact,
    seed: int,
    again: bool,
) -> dict[str, Row]:
    """Judge `answers`, (prompt, text) by id. Returns the verdicts by id."""
    table = pa.table(
        {
            "id": list(answers),
            "prompt": [prompt for prompt, _ in answers.values()],
            "text": [text for _, text in answers.values()],
        }
    )
    path = out.sub("parts", f"{part}.parquet")
    dataset.write_table(table, path)
    if again:
        config = replace(config, seed=config.seed + 1)
    start = config.kind == "vllm" and not config.structured
    requests = (
        dataset.read(path, _ANSWER)
        .repartition(target_num_rows_per_block=_WRITE_ROWS, strict=True)
        .map_batches(
            partial(add_messages, judge=judge, seed=seed, start=start, again=again), batch_format="pyarrow"
        )
    )
    judged = engine.processor(config, schema=judge.schema)(requests).map_batches(
        partial(_parse, judge=judge, started=start), batch_format="pyarrow"
    )
    dataset.write(
        judged, out, label=part, total=len(answers), write_rows=_WRITE_ROWS, max_rejected=1.0, part=part
    )
    counts = dataset.written(out, part)
    if counts is None or not counts.rows_out:
        return {}
    rows = dataset.table(out.sub("data", part), ["id", HARMFUL, VALUE, LABEL]).to_pylist()
    return {row["id"]: {"harmful": row[HARMFUL], "value": row[VALUE], "label": row[LABEL]} for row in rows}


def _parse(batch: pa.Table, judge: LmJudge, started: bool) -> Any:
    """Add the verdict's columns; a row without a verdict is rejected with the reason."""
    parsed = parse_replies(batch, judge, started)
    names = [dataset.REASON if name == PROBLEM else name for name in parsed.column_names]
    return parsed.rename_columns(names)
