"""Write task files of lm-evaluation-harness for published multiple-choice questions on this machine.

    python -m benchmarks.ability_tasks data=$SAFETY_RAY_DATA output=runs/tasks
    safety-ray evaluate model=... lm_tasks=[runs/tasks/arc_easy.yaml,...] output=...

The files below `data`/bench are those of LLM-Adapters (https://github.com/AGI-Edgerunners/LLM-Adapters,
dataset/<name>/test.json), which has the questions of the sets as instructions. Each task scores the
continuation of "Question: ... Answer:" by its choices, as the harness's own tasks do; use `acc_norm`, which
divides log-likelihoods by the number of characters.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main

SETS = {
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "social_iqa": "social_i_qa",
}
_QUESTION = re.compile(
    r"Please choose the correct \w+ to the question: (.*?)\s*(?=(?:Answer|Solution)1: )", re.S
)
_CHOICES = re.compile(
    r"(?:Answer|Solution)\d: (.*?)\s*(?=(?:Answer|Solution)\d: |Answer format: |Solution format: |\Z)", re.S
)
_TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TasksConfig:
    """Write task files of lm-evaluation-harness for published multiple-choice questions."""

    data: str = setting("folder with bench/llm_adapters_<set>.json")
    output: str = setting("folder to write")


def questions(path: Path) -> list[dict[str, Any]]:
    """Return rows {question, choices, answer: its index}. Raises UserError for a row of another form."""
    rows = []
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        question, choices = _QUESTION.match(row["instruction"]), _CHOICES.findall(row["instruction"])
        answer = re.fullmatch(r"(?:answer|solution)(\d)", row["answer"])
        if not question or not answer or not 0 < int(answer[1]) <= len(choices):
            raise UserError(f"'{path}', row {number} is not a question with numbered answers.")
        rows.append({"question": question[1], "choices": choices, "answer": int(answer[1]) - 1})
    return rows


def write_tasks(config: TasksConfig) -> dict[str, Any]:
    """Write one .jsonl and one .yaml file for each set."""
    output = Path(config.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    for name, file in SETS.items():
        rows, data = (
            questions(Path(config.data, "bench", f"llm_adapters_{file}.json")),
            output / f"{name}.jsonl",
        )
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (output / f"{name}.yaml").write_text(_TASK.format(name=name, data=data), encoding="utf-8")
        print(f"{output / name}.yaml: {len(rows):,} questions")
    return {}


if __name__ == "__main__":
    main(TasksConfig, write_tasks)
