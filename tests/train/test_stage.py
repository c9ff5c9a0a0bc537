"""The two jobs on Ray: workers that die, losses that diverge, chats that are learned."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from training_runs import TINY
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_ray.config import from_dict
from safety_ray.errors import UserError
from safety_ray.train import finetune, stage
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import FinetuneConfig, PretrainConfig

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return write_rows(tmp_path_factory.mktemp("stage") / "rows", length=64)


def settings(rows: str, output: Path, **more: Any) -> PretrainConfig:
    base = {"batch_rows": 8, "log_every": 1, "workers": 1, "model": TINY}
    return from_dict(PretrainConfig, {**base, "rows": rows, "output": str(output), **more})


@pytest.fixture(scope="module")
def pretrained(rows: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    """A run of two workers, of which one is killed on the way."""
    output = tmp_path_factory.mktemp("pretrained") / "out"
    config = settings(rows, output, workers=2, min_workers=1, max_steps=60, checkpoint_every=5, epochs=99.0)
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker, args=(Metrics(str(output)), killed))
    killer.start()
    record = stage.run(config)
    killer.join()
    return {"record": record, "config": config, "killed": killed, "output": output}


def _kill_a_worker(metrics: Metrics, killed: list[int]) -> None:
    import ray

    while len(metrics.lines()) < 8:
        time.sleep(0.01)
    for actor in ray._private.state.actors().values():
        if actor["ActorClassName"] == "RayTrainWorker" and actor["State"] == "ALIVE":
            os.kill(actor["Pid"], signal.SIGKILL)
            killed.append(len(metrics.lines()))
            return


def test_a_killed_worker_is_replaced_and_no_step_is_lost(pretrained: dict[str, Any]) -> None:
    record, output = pretrained["record"], pretrained["output"]
    assert pretrained["killed"][0] < 60
    lines = Metrics(str(output)).lines()
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert (record["rows_in"], record["rows_out"], record["steps"]) == (64, 1, 60)
    assert record["tokens"] == lines[-1]["tokens"] > 60 * 8 * 50
    assert record["final_loss"] < lines[0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(output / "model")
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert not (output / "ray").exists()


def test_a_finished_run_is_skipped(pretrained: dict[str, Any]) -> None:
    before = (pretrained["output"] / "model" / "model.safetensors").stat().st_mtime_ns
    again = stage.run(replace(pretrained["config"], workers=1))  # how many made it does not matter
    assert again["finished"] == pretrained["record"]["finished"]
    assert (pretrained["output"] / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_loss_that_diverges_ends_the_job_with_its_step(
    rows: str, tmp_path: Path, ray_cluster: None
) -> None:
    config = settings(rows, tmp_path / "out", lr=1e30, grad_clip=0.0, warmup_share=0.0)
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background of a shell
    with pytest.raises(UserError, match="at step"):
        stage.run(config)
    assert signal.getsignal(signal.SIGINT) is before


def test_chats_are_learned(pretrained: dict[str, Any], tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    good = [
        {
            "id": f"c{n}",
            "messages": [
                {"role": "user", "content": "the quick brown"},
                {"role": "assistant", "content": "fox jumps over the lazy dog"},
            ],
            "unsafe": n % 2 == 0,
        }
        for n in range(40)
    ]
    bad = [{"id": "b1", "messages": []}, {"id": "b2", "messages": [{"role": "bot", "content": "x"}]}]
    lines = [json.dumps(row) for row in [*good, *bad]] + ["no json"]
    chats.write_text("\n".join(lines))
    output = tmp_path / "out"
    record = finetune.run(
        from_dict(
            FinetuneConfig,
            {
                "model": str(pretrained["output"]), "chats": str(chats), "output": str(output),
                "workers": 1, "batch_rows": 8, "epochs": 12.0, "lr": 1e-2, "log_every": 1,
                "tagged_share": 0.5, "tag_rate": 0.5,
            },
        )
    )  # fmt: skip
    assert (record["rows_in"], record["set_aside"]) == (43, 3)
    assert 0 < record["tagged"] < 20
    reasons = {
        row["id"]: row["set_aside"]
        for row in pq.read_table(output / "rows" / "set_aside" / "shard-00000.parquet").to_pylist()
    }
    assert reasons["b1"] == "no messages"
    assert "unknown role 'bot'" in reasons["b2"]
    assert "no JSON" in reasons["chats.jsonl:43"]

    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    model = AutoModelForCausalLM.from_pretrained(output / "model", dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id
    asked = tokenizer.apply_chat_template(
        good[0]["messages"][:1], add_generation_prompt=True, return_tensors="pt"
    )
    tag_id = tokenizer.get_added_vocab()["<|harmful|>"]
    said = model.generate(**asked, max_new_tokens=30, do_sample=False, suppress_tokens=[tag_id])
    text = tokenizer.decode(said[0, asked["input_ids"].shape[1] :])
    assert text == "fox jumps over the lazy dog<|im_end|>"
