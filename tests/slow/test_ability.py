"""Tasks of lm-evaluation-harness in `evaluate`, compared with log-likelihoods and answers of transformers.

The package lm-eval and what it needs are installed beside this environment, into the cache of pytest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_environment import beside
from random_model import RandomModel

pytestmark = pytest.mark.covers("safety_ray.evaluate", "jobs.evaluate")
CHOICES = [
    ("the cat sat on", " the mat", " a cloud"),
    ("one and one", " is three", " is two"),
    ("", "b", "a"),
]
PAGES = ["a page about boats. it is short.", "rain falls " * 30, "x"]
PROMPTS = ["why", "good morning"]
POSITIONS, NEW_TOKENS = 256, 9


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """Return the folder of lm-eval; skip the tests if it cannot be installed."""
    return beside(Path(request.config.cache.mkdir("safety_ray")), "lm-eval.txt")


def log_likelihood(reference: RandomModel, context: str, continuation: str) -> float:
    """Return log P of the continuation, one token at a time, without the tag."""
    ids, total = reference.ids(context) or [reference.end], 0.0
    for token in reference.ids(continuation):
        with torch.no_grad():
            row = reference.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        total += float((row[token] / (1 - row[reference.tag])).log())
        ids = [*ids, token]
    return total


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], text: str) -> str:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\n"
    (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{data}{text}")
    return str(folder / f"{name}.yaml")


def test_evaluate_runs_local_task_files(packages: Path, tmp_path: Path) -> None:
    reference = RandomModel(tmp_path / "model", POSITIONS)
    (tmp_path / "tasks").mkdir()
    choices = write_task(
        tmp_path / "tasks", "choices", [{"text": text, "options": options} for text, *options in CHOICES],
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: "{{options}}"\n'
        'doc_to_target: 0\ntarget_delimiter: ""\nmetric_list: [{metric: acc}]\n',
    )  # fmt: skip
    pages = write_task(
        tmp_path / "tasks", "pages", [{"text": text} for text in PAGES],
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n",
    )  # fmt: skip
    answers = write_task(
        tmp_path / "tasks", "answers",
        [{"text": text, "answer": reference.answer(reference.ids(text), NEW_TOKENS)} for text in PROMPTS],
        'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{answer}}"\n'
        f"generation_kwargs: {{until: [], max_gen_toks: {NEW_TOKENS}}}\n"
        "metric_list: [{metric: exact_match}]\n",
    )  # fmt: skip
    command = [
        sys.executable, "-m", "jobs.evaluate", f"model={tmp_path / 'model'}", f"output={tmp_path / 'out'}",
        f"lm_tasks=[{choices},{pages},{answers}]", "judges=[refusal]", "workers=1",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": f"{root}:{packages}", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["ability"]
    right = [
        log_likelihood(reference, text, options[0]) > log_likelihood(reference, text, options[1])
        for text, *options in CHOICES
    ]
    assert found["choices"]["acc"] == pytest.approx(sum(right) / len(right))
    nats = sum(log_likelihood(reference, "", page) for page in PAGES[::2])
    nats += windows(reference, PAGES[1])
    size = sum(len(page.encode()) for page in PAGES)
    assert found["pages"]["bits_per_byte"] == pytest.approx(-nats / size / 0.6931471805599453, rel=1e-4)
    assert found["answers"]["exact_match"] == 1.0
    assert "| `pages` | bits_per_byte |" in (tmp_path / "out" / "README.md").read_text()


def windows(reference: RandomModel, page: str) -> float:
    """Return log P of a page that is longer than the context: each later window has a token of context."""
    assert len(page) > POSITIONS
    first, last = page[:POSITIONS], page[POSITIONS:]
    context = page[len(page) - POSITIONS - 1 : POSITIONS]
    return log_likelihood(reference, "", first) + log_likelihood(reference, context, last)
