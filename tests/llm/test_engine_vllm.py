"""Engine `vllm` with a tiny random Llama, through ray.data.llm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pyarrow as pa
import pytest
import ray.data
import tiny_writer

from safety_ray.core.errors import UserError
from safety_ray.core.weights import LOAD_FORMATS
from safety_ray.judge.rubric import PROMPT, add_messages
from safety_ray.llm import engine
from safety_ray.llm.engine import EngineConfig
from safety_ray.llm.vllm_engine import processor_config, runs_on_cpu, sampling_params
from safety_ray.rewrite.recipes import RECIPES

SamplingParams = pytest.importorskip("vllm").SamplingParams
SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "enum": list(range(6))},
        "reason": {"type": "string", "maxLength": 8},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 0.2M random parameters with a byte tokenizer and a chat template."""
    import torch

    folder = tmp_path_factory.mktemp("model")
    texts = [template.template for prompt in (PROMPT, RECIPES["refuse"].prompt) for template in prompt]
    vocabulary = tiny_writer.tokenizer(texts, words=512)
    vocabulary.save_pretrained(folder)
    tiny_writer.model(vocabulary, hidden_size=64, num_attention_heads=2, num_key_value_heads=2).to(
        torch.bfloat16
    ).save_pretrained(folder)
    return folder


def test_load_formats_are_formats_of_vllm() -> None:
    from vllm.model_executor.model_loader import LoadFormats

    assert set(LOAD_FORMATS) < set(get_args(LoadFormats))


def test_vllm_engine_scales_chat_template_stage_with_replicas() -> None:
    config = EngineConfig(kind="vllm", model="m", concurrency=2, max_concurrency=6, seed=3)
    on_gpu = processor_config(config, on_cpu=False)
    assert on_gpu.concurrency == (2, 6)
    assert on_gpu.chat_template_stage == {"enabled": True, "num_cpus": 1, "concurrency": (1, 6)}
    assert on_gpu.engine_kwargs["seed"] == 3
    assert "dtype" not in on_gpu.engine_kwargs
    on_cpu = processor_config(config, on_cpu=True)
    assert on_cpu.chat_template_stage == {"enabled": True, "num_cpus": 0.1, "concurrency": (1, 6)}
    assert {"seed", "dtype", "enforce_eager"} < set(on_cpu.engine_kwargs)


def test_vllm_engine_sends_seeds_only_if_it_samples_with_them() -> None:
    """A seed of its own turns vLLM's fast sampler off for the whole batch."""
    for more, seeds in (({}, 0), ({"seeded": True, "temperature": 0.0}, 0), ({"seeded": True}, 3)):
        config = EngineConfig(kind="vllm", model="m", **{"temperature": 0.7, **more})
        sent = [*map(sampling_params(config, None), ("a", "b", "c", "a"))]
        assert len({params["seed"] for params in sent if "seed" in params}) == seeds
        assert sent[0] == sent[3]
        assert all(SamplingParams(**params).temperature == config.temperature for params in sent)


def test_vllm_engine_follows_schema_and_reports_row_errors(model: Path, ray_cluster: None) -> None:
    config = EngineConfig(
        kind="vllm", model=str(model), max_tokens=120, temperature=1.0, batch_size=8, seeded=True,
        engine_args={"max_model_len": 2048, "max_num_seqs": 8},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'max_modellen'; the nearest is 'max_model_len'"):
        engine.check(EngineConfig(kind="vllm", model=str(model), engine_args={"max_modellen": 1}))
    rows = pa.table(
        {
            # Three prompts are more tokens than one step holds: on CPU their seeds must survive that.
            "id": ["a", "b", "c", "too long"],
            "text": ["One.", "Two.", "Three.", "word " * 3000],
            "small": pa.array([1, None, 3, 4], pa.int8()),
            "probs": pa.array([[0.5], [], None, [1.0]], pa.list_(pa.float32())),
        }
    )
    requests = add_messages(rows, seed=0, start=False, max_chars=100_000)
    done = engine.processor(config, schema=SCHEMA)(ray.data.from_arrow(requests))
    out = pa.concat_tables(ray.get(done.to_arrow_refs())).sort_by("id")
    assert out.select(rows.column_names).equals(rows.sort_by("id"))
    found = {row["id"]: row for row in out.to_pylist()}
    for id in ("a", "b", "c"):
        assert found[id]["engine_error"] is None
        # A model of random numbers writes any character into the string, control characters too.
        value = json.loads(found[id]["reply"], strict=False)
        assert jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    assert found["too long"]["reply"] is None
    assert "maximum context length" in found["too long"]["engine_error"]


@pytest.mark.parametrize(
    ("device", "gpus", "on_cpu"),
    [("auto", 0, True), ("auto", 2, False), ("gpu", 0, False), ("cpu", 2, True)],
)
def test_engine_asks_for_gpus_that_an_autoscaler_adds(device: Any, gpus: int, on_cpu: bool) -> None:
    config = EngineConfig(kind="vllm", model="m", device=device)
    assert runs_on_cpu(config, gpus) == on_cpu
