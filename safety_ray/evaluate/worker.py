"""The work of an evaluation in one process: read documents, answer prompts, judge answers.

The model and the classifier are loaded when the first task needs them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from safety_ray.classifier.classifier import Classifier
from safety_ray.decode.words import word_starts
from safety_ray.evaluate import ability, decoders, model
from safety_ray.evaluate.ability import AbilityTask
from safety_ray.evaluate.judges import JUDGES, Answer, Judge
from safety_ray.evaluate.reading import read
from safety_ray.evaluate.results import verdict_rows
from safety_ray.evaluate.settings import Decoding
from safety_ray.evaluate.tasks import READ, Task

JUDGE = "judge"
_ANSWERS_PER_TASK = 64


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """Consecutive answers for one judge."""

    judge: str
    first: int  # number of the first answer
    answers: list[Answer]

    @property
    def name(self) -> str:
        """Name of the file with the verdicts."""
        return f"{JUDGE}-{self.judge}-{self.first:06}.json"

    @property
    def size(self) -> int:
        """Number of verdicts."""
        return len(self.answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Settings of a worker."""

    model: str  # folder; empty: it only judges
    decoding: Decoding  # its ends of text are those of the model
    classifier: str
    trust_remote_code: bool  # of the classifier
    judge_from: int
    threads: int
    device: str


class Worker:
    """Actor of the job that runs its tasks."""

    def __init__(self, settings: WorkerSettings) -> None:
        import torch

        torch.set_num_threads(settings.threads)
        self.settings = settings

    def run(self, task: Task | JudgeTask | AbilityTask) -> tuple[str, list[Any]]:
        """Return name and rows of a task: readings, answers, verdicts, or the results of an lm-eval task."""
        if isinstance(task, JudgeTask):
            return task.name, verdict_rows(self.judge(task.judge).judge(task.answers))
        network, tokenizer, decoding = self._model
        if isinstance(task, AbilityTask):
            return task.name, [ability.run(task, network, tokenizer, decoding)]
        if task.kind == READ:
            return task.name, [asdict(reading) for reading in read(network, task.rows, decoding.tag_id)]
        return task.name, decoders.answer(network, tokenizer, task.rows, task.kind, decoding, task.seeds)

    def judge(self, name: str) -> Judge:
        """Return a judge that runs in this process."""
        make = JUDGES[name].make
        assert make is not None
        return (
            make(self._classifier, self.settings.judge_from) if JUDGES[name].needs == "classifier" else make()
        )

    @cached_property
    def _model(self) -> tuple[Any, Any, Decoding]:
        network, tokenizer = model.load(self.settings.model, self.settings.device)
        eos_ids = model.end_ids(network, tokenizer)
        words = word_starts(tokenizer)
        return network, tokenizer, replace(self.settings.decoding, eos_ids=eos_ids, words=words)

    @cached_property
    def _classifier(self) -> Classifier:
        settings = self.settings
        return Classifier.load(
            settings.classifier, settings.device, trust_remote_code=settings.trust_remote_code
        )


def judge_tasks(judge: str, answers: list[Answer]) -> list[JudgeTask]:
    """Return the tasks that judge all answers."""
    step = _ANSWERS_PER_TASK
    return [JudgeTask(judge, first, answers[first : first + step]) for first in range(0, len(answers), step)]
