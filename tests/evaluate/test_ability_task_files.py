"""Task files of lm-eval from published questions, against rows that were checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.ability_tasks import SETS, TasksConfig, questions, write_tasks
from safety_ray.core.errors import UserError

pytestmark = pytest.mark.covers("benchmarks.ability_tasks")
ROW = {
    "instruction": "Please choose the correct answer to the question: What swims?\n\n"
    "Answer1: a cod. It has fins. Answer2: a hen\n\nAnswer format: answer1/answer2",
    "answer": "answer1",
}


def test_questions_are_split_into_choices(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW]))
    choices = ["a cod. It has fins.", "a hen"]
    assert questions(tmp_path / "a.json") == [{"question": "What swims?", "choices": choices, "answer": 0}]


@pytest.mark.parametrize(
    "change", [{"answer": "answer3"}, {"answer": "true"}, {"instruction": "What swims?"}]
)
def test_questions_of_another_form_are_an_error(tmp_path: Path, change: dict[str, str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW, {**ROW, **change}]))
    with pytest.raises(UserError, match=r"a\.json', row 1 is not a question with numbered answers"):
        questions(tmp_path / "a.json")


def test_task_files_have_all_published_questions(real_data: Path, tmp_path: Path) -> None:
    write_tasks(TasksConfig(data=str(real_data), output=str(tmp_path)))
    rows = {name: (tmp_path / f"{name}.jsonl").read_text().splitlines() for name in SETS}
    sizes = {"arc_easy": 2376, "arc_challenge": 1172, "openbookqa": 500, "piqa": 1838, "social_iqa": 1954}
    assert {name: len(lines) for name, lines in rows.items()} == sizes
    first = json.loads(rows["arc_easy"][3])
    assert first["question"] == "Which characteristic describes the texture of a kitten's fur?"
    assert (first["choices"], first["answer"]) == (["gray", "warm", "long", "soft"], 3)
    fewest = {"piqa": 2, "social_iqa": 3}
    for name, lines in rows.items():
        for line in lines:
            choices = json.loads(line)["choices"]
            assert len(choices) >= fewest.get(name, 3), line
            assert not [text for text in choices if "format:" in text or not text.strip()], line
    task = yaml.safe_load((tmp_path / "piqa.yaml").read_text())
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).samefile(tmp_path / "piqa.jsonl")
