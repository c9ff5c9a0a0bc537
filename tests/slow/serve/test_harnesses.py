"""lm-evaluation-harness and inspect-ai against an endpoint, with the answers that transformers computes.

Both run as programs of an environment of their own (harness_environment.py), with local task files and
without network. The endpoint computes in fp32, with a model of random weights, so that values are comparable.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_environment import harness_environment
from known_model import POSITIONS
from one_endpoint import stop_running
from random_model import RandomModel
from ray_head import Head

from safety_ray.core.ports import free_port
from serve.app import ServeConfig, start, stop

pytestmark = pytest.mark.covers("serve", "safety_ray.decode")
MODEL = "safety-ray"
MULTIPLE_CHOICE = [("the cat sat on", " the mat", " a cloud"), ("one and one", " is two", " is three")]
PAGES = ["a page about boats. it is short.", "rain falls " * 300, "x"]
"""The second has more tokens than a request may have, so the harness measures it in two windows."""
PROMPTS = ["why", "good morning", "what is it"]
NEW_TOKENS = 24
MAX_LENGTH = 2000

LM_EVAL_TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{options}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "pages": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "answers": """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: ""
generation_kwargs: {until: STOPS, max_gen_toks: 24}
metric_list: [{metric: exact_match}]
""",
}
INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def answers():
    return Task(dataset=json_dataset("DATA"), solver=generate(), scorer=match())
"""


def log_likelihood(reference: RandomModel, context: list[int], continuation: list[int]) -> float:
    ids = context + continuation
    with torch.no_grad():
        table = reference.model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    first = len(context) - 1
    return float(table[range(first, len(ids) - 1), ids[len(context) :]].sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


@pytest.fixture(scope="module")
def reference(folder: Path) -> RandomModel:
    return RandomModel(folder, POSITIONS)


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest) -> Path:
    return harness_environment(request.config.cache.mkdir("safety_ray"))


@pytest.fixture(scope="module")
def url(reference: RandomModel, folder: Path, ray_cluster: Head) -> Iterator[str]:
    stop_running()  # the endpoint of other tests
    config = ServeConfig(model=str(folder), port=free_port(), engine_args={"dtype": "float32"})
    yield start(config)
    stop(config)


def run(command: list[str], folder: Path, **variables: str) -> None:
    """Run a harness in `folder` without access to the model hub."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", **variables,
    }  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stop_strings(reference: RandomModel) -> list[str]:
    """Return nine stop strings; the last one ends the first answer of `PROMPTS`."""
    return [
        *(2 * letter for letter in "QRSTUVWX"),
        reference.answer(reference.ids(PROMPTS[0]), NEW_TOKENS)[5:7],
    ]


def run_lm_eval(programs: Path, url: str, model: Path, folder: Path, stops: list[str]) -> dict[str, Any]:
    """Run all tasks; return the responses of each task in the order of its rows."""
    rows = {
        "choices": [{"text": text, "options": options} for text, *options in MULTIPLE_CHOICE],
        "pages": [{"text": text} for text in PAGES],
        "answers": [{"text": text} for text in PROMPTS],
    }
    for name, task in LM_EVAL_TASKS.items():
        write_rows(folder / f"{name}.jsonl", rows[name])
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\n"
        text = task.replace("STOPS", json.dumps(stops))
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{data}{text}")
    arguments = (
        f"model={MODEL},base_url={url}/completions,tokenizer={model},tokenizer_backend=huggingface,"
        f"max_length={MAX_LENGTH},num_concurrent=2"
    )
    run(
        [str(programs / "lm_eval"), "run", "--model", "local-completions", "--model_args", arguments,
         "--tasks", *LM_EVAL_TASKS, "--include_path", str(folder), "--batch_size", "2",
         "--output_path", str(folder / "out"), "--log_samples"],
        folder,
    )  # fmt: skip
    responses = {}
    for name in LM_EVAL_TASKS:
        [file] = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row["doc_id"])
        responses[name] = [sample["resps"] for sample in samples]
    return responses


def test_lm_eval_gets_values_of_transformers(
    programs: Path, url: str, folder: Path, reference: RandomModel, tmp_path: Path
) -> None:
    stops = stop_strings(reference)
    found = run_lm_eval(programs, url, folder, tmp_path, stops)

    for (text, *options), responses in zip(MULTIPLE_CHOICE, found["choices"], strict=True):
        for option, [(value, _)] in zip(options, responses, strict=True):
            expected = log_likelihood(reference, reference.ids(text), reference.ids(option))
            assert float(value) == pytest.approx(expected, abs=1e-3)

    for text, [[value]] in zip(PAGES, found["pages"], strict=True):
        ids, start, expected = reference.ids(text), 0, 0.0
        while start < len(ids):  # the windows of lm-evaluation-harness
            end = min(start + MAX_LENGTH - 2, len(ids))
            context = ids[end - MAX_LENGTH + 1 : start] if start else [reference.end]
            expected += log_likelihood(reference, context, ids[start:end])
            start = end
        assert float(value) == pytest.approx(expected, rel=1e-5, abs=1e-3)

    expected_answers = [reference.answer(reference.ids(text), NEW_TOKENS, stops) for text in PROMPTS]
    assert [answer for [[answer]] in found["answers"]] == expected_answers
    assert len(expected_answers[0]) == 5


def test_inspect_gets_answers_of_transformers(
    programs: Path, url: str, reference: RandomModel, tmp_path: Path
) -> None:
    """A chat, first in the endpoint's default mode, then in another one that `extra_body` selects."""
    write_rows(tmp_path / "data.jsonl", [{"input": text, "target": "a"} for text in PROMPTS])
    (tmp_path / "task.py").write_text(INSPECT_TASK.replace("DATA", str(tmp_path / "data.jsonl")))
    start_id, end_id = reference.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    expected = []
    for text in PROMPTS:
        user, message, line, assistant = map(reference.ids, ("user\n", text, "\n", "assistant\n"))
        expected.append(
            reference.answer([start_id, *user, *message, end_id, *line, start_id, *assistant], NEW_TOKENS)
        )
    for mode in ("mask", "safebeam"):
        run(
            [str(programs / "inspect"), "eval", "task.py", "--model", f"openai-api/endpoint/{MODEL}",
             "--temperature", "0", "--max-tokens", str(NEW_TOKENS), "--seed", "1", "--display", "none",
             "--extra-body", json.dumps({"safety": {"mode": mode}}),
             "--log-dir", str(tmp_path / mode), "--log-format", "json"],
            tmp_path, ENDPOINT_BASE_URL=url, ENDPOINT_API_KEY="none",
        )  # fmt: skip
        [log] = (tmp_path / mode).glob("*.json")
        samples = sorted(json.loads(log.read_text())["samples"], key=lambda sample: sample["id"])
        answers = [sample["output"]["choices"][0]["message"]["content"] for sample in samples]
        assert len(answers) == len(PROMPTS)
        assert (answers == expected) == (mode == "mask")
