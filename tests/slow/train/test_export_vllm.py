"""A trained model in vLLM: it loads from the folder alone, and its output matches transformers."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_runs import run, settings
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.covers("safety_ray.train.export")
PROMPT = "the quick brown fox"


def test_export_in_vllm_matches_transformers(
    tmp_path: Path, write_rows: Callable[..., str], alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    for name, value in {"VLLM_LOGGING_LEVEL": "ERROR", "TORCH_COMPILE_DISABLE": "1"}.items():
        monkeypatch.setenv(name, value)
    from vllm import LLM, SamplingParams

    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 128}
    rows = write_rows(tmp_path / "rows")
    run(settings(rows, tmp_path / "out", model=sizes, lr=1e-2, epochs=8, max_steps=40))
    folder = str(tmp_path / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    llm = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=32, block_size=32)
    try:
        (output,) = llm.generate([PROMPT], SamplingParams(temperature=0.0, max_tokens=12), use_tqdm=False)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
    assert list(output.outputs[0].token_ids) == expected.tolist()
    assert output.outputs[0].text.strip()
