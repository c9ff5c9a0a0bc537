"""A request that ends each vLLM engine which generates its reply is rejected, and the others are answered."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import ray.data
import tiny_writer

from safety_ray.core import worker_deaths
from safety_ray.llm import engine
from safety_ray.llm.engine import EngineConfig, row_seed

pytest.importorskip("vllm")
pytestmark = pytest.mark.covers(
    "safety_ray.llm.engine_deaths", "safety_ray.llm.watchdog", "safety_ray.llm.vllm_engine"
)
IDS = [f"d{n:02}" for n in range(12)]
DEADLY = "d07"


def test_vllm_engine_rejects_row_that_ends_its_engines(tmp_path: Path, ray_cluster: None) -> None:
    texts = [f"a note about the town number {id}" for id in IDS]
    vocabulary = tiny_writer.tokenizer(texts)
    vocabulary.save_pretrained(tmp_path / "model")
    tiny_writer.model(vocabulary).save_pretrained(tmp_path / "model")
    (tmp_path / "deaths").mkdir()
    settings = {
        "max_model_len": 256,
        "dtype": "float32",
        "logits_processors": ["tests.slow.deadly_engine:Deadly"],
    }

    def config(**more: object) -> EngineConfig:
        return EngineConfig(
            kind="vllm", model=str(tmp_path / "model"), max_tokens=8, seeded=True, batch_size=4,
            engine_args=settings | more,
        )  # fmt: skip

    deadly = {"deadly_seed": row_seed(config(), DEADLY), "deaths": str(tmp_path / "deaths")}
    messages = [[{"role": "user", "content": text}] for text in texts]
    rows = ray.data.from_arrow(pa.table({"id": IDS, "messages": messages}))
    worker_deaths.begin_stage()
    answered = engine.processor(config(additional_config=deadly))(rows).take_all()
    errors = {row["id"]: row["engine_error"] for row in answered}
    assert sorted(row["id"] for row in answered) == IDS
    assert "its generation ended the engine 2 times" in errors.pop(DEADLY)
    assert {error and "truncated" in error for error in errors.values()} <= {None, True}
    assert len(list((tmp_path / "deaths").iterdir())) == 4, "twice with others, twice alone"
    lost = worker_deaths.lost_in_stage()
    assert (lost["workers"], lost["nodes"]) == (4, 0)
    assert lost["rows"] >= 4, "of each engine at least the request that ended it"
    assert lost["seconds"] > 0
