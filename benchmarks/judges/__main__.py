"""Measure the judges of model answers against human labels; prints one table per judge.

    python -m benchmarks.judges data=$SAFETY_RAY_DATA pyrit=pyrit-1.1.0-py3-none-any.whl classifier=runs/fit
    python -m benchmarks.judges data=... pyrit=... judges=[harm_lm,over_refusal_lm] lm.kind=vllm lm.model=...

With `output=safety_ray/evaluate/judges/measured.json` the counts become part of the package, where
`JudgeSpec.measured` reads them. Intervals are 95% intervals by prompts. `benchmarks/judges/sets.py` describes
how the labels of each set are read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.judges import sets
from benchmarks.judges.measure import HEADER, measure, questions
from benchmarks.judges.settings import JudgesBenchmark
from safety_ray.core.artifact import Artifact
from safety_ray.core.job import main
from safety_ray.evaluate.judges import JUDGES, Answer, Measurement, Verdict, harm_classifier
from safety_ray.evaluate.judges.measured import reasons_against, write
from safety_ray.judge.settings import Judge

MODELS = {"classifier": "classifier=...", "lm": "lm.kind=... and lm.model=..."}


def run(config: JudgesBenchmark) -> dict[str, Any]:
    """Print the tables, and write the measurements to `config.output`."""
    loaded = sets.load(config)
    measurements: dict[str, list[Measurement]] = {}
    for name in config.judges:
        spec = JUDGES[name]
        if (spec.needs == "lm" and not config.lm.is_model) or (
            spec.needs == "classifier" and not config.classifier
        ):
            print(f"\n## {name}\n\nnot measured: give {MODELS[spec.needs]}", flush=True)
            continue
        labelled_sets = sets.unseen(loaded, spec.fitted_on)
        if config.sample:
            labelled_sets = [sets.sample(labelled, config.sample, config.seed) for labelled in labelled_sets]
        answers = [row.answer for labelled in labelled_sets for row in labelled.rows]
        verdicts, model = judge(name, answers, config)
        print(f"\n## {name}\n\n{model or spec.summary}\n\n{HEADER}")
        measurements[name] = []
        for labelled in labelled_sets:
            of_set, verdicts = verdicts[: len(labelled.rows)], verdicts[len(labelled.rows) :]
            for asks in questions(spec, labelled):
                measurement, line = measure(
                    spec, labelled, of_set, asks, model=model, seed=config.seed, resamples=config.resamples
                )
                measurements[name].append(measurement)
                print(line, flush=True)
        reason = reasons_against(name, spec.detects, tuple(measurements[name]))
        print(f"\nMay carry a headline: {f'no, {reason}' if reason else 'yes'}.", flush=True)
    if config.output:
        write(Path(config.output), measurements)
    return {}


def judge(name: str, answers: list[Answer], config: JudgesBenchmark) -> tuple[Sequence[Verdict | None], str]:
    """Return the judge's verdicts, and its model for the record."""
    spec = JUDGES[name]
    if spec.lm is not None:
        return judge_with_lm(name, answers, config.lm, config.seed), config.lm.label
    assert spec.make is not None
    if spec.needs == "nothing":
        return spec.make().judge(answers), ""
    from safety_ray.classifier.classifier import Classifier

    judge_with_classifier = spec.make(Classifier.load(config.classifier), config.threshold)
    return judge_with_classifier.judge(answers), harm_classifier.describe(config.classifier, config.threshold)


def judge_with_lm(name: str, answers: list[Answer], config: Judge, seed: int) -> list[Verdict | None]:
    """Return the verdicts of a language model as `evaluate` does; None for each that cannot be parsed."""
    from safety_ray.core import cluster
    from safety_ray.evaluate.lm_judging import judge_answers
    from safety_ray.llm import engine

    engine.check(config)
    cluster.start()
    with tempfile.TemporaryDirectory() as folder:
        rows = judge_answers(name, answers, config, Artifact(folder, {}, {}), seed)
    return [None if row is None else Verdict(**row) for row in rows]


if __name__ == "__main__":
    main(JudgesBenchmark, run)
