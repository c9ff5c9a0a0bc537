"""The language model of `make demo`: made from its package, and used by the demo's config through vLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.pipeline import PipelineConfig, run_pipeline
from safety_ray.core import artifact
from safety_ray.core.config import load

pytestmark = pytest.mark.covers("safety_ray.llm", "safety_ray.rewrite", "jobs.pipeline")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    done = make_model(folder)
    if "could not install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return folder


def make_model(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "small_model.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_small_model_script_converts_a_model_that_knows_something(model: Path) -> None:
    assert [path.name for path in model.parent.iterdir()] == ["smollm2"], "nothing unfinished is left"
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    assert 130e6 < network.num_parameters() < 140e6
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    ids = prompt["input_ids"]
    answer = network.generate(
        ids, attention_mask=prompt["attention_mask"], max_new_tokens=20, do_sample=False
    )
    assert "Paris" in tokenizer.decode(answer[0, ids.shape[1] :])
    before = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    assert make_model(model).stdout == ""
    assert {path: path.stat().st_mtime_ns for path in model.iterdir()} == before


def test_demo_config_rephrases_with_small_model(model: Path, tmp_path: Path, ray_cluster: None) -> None:
    pytest.importorskip("vllm")
    config = load(
        PipelineConfig,
        [
            str(ROOT / "configs/pipeline/demo-model.yaml"), f"output={tmp_path}", "corpus.documents=560",
            f"rewrite.engine.model={model}", "rewrite.engine_share=0.2", "until=rewrite",
        ],
    )  # fmt: skip
    run_pipeline(config)
    record = artifact.read_record(str(tmp_path / "rewrite"))
    assert record is not None
    engines = record["engines"]
    assert sum(engines[f"vllm:{model}"].values()) > 10
    assert engines["template"]["accepted"] > 100
