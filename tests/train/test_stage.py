"""The pretrain and finetune jobs on Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import finetune, pretrain
from safety_ray.core.config import from_dict
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import FinetuneConfig, PretrainConfig

Run = tuple[PretrainConfig, dict[str, Any]]


def test_pretrain_stage_records_run_of_two_workers(validated: Run) -> None:
    config, record = validated
    lines = Metrics(config.output).lines()
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert (record["rows_in"], record["rows_out"], record["steps"]) == (64, 1, 12)
    assert record["tokens"] == lines[-1]["tokens"] > 12 * 8 * 50
    assert record["final_loss"] < lines[0]["loss"]
    output = Path(config.output)
    model = AutoModelForCausalLM.from_pretrained(output / "model")
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert not (output / "ray").exists()


def test_pretrain_stage_skips_finished_run(validated: Run) -> None:
    config, record = validated
    weights = Path(config.output) / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = pretrain.pretrain_model(
        replace(config, workers=1)
    )  # the number of workers is not part of its identity
    assert again["finished"] == record["finished"]
    assert weights.stat().st_mtime_ns == before


def test_finetune_stage_learns_chats_and_rejects_bad_rows(validated: Run, tmp_path: Path) -> None:
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
    record = finetune.finetune_model(
        from_dict(
            FinetuneConfig,
            {
                "model": validated[0].output, "chats": str(chats), "output": str(output),
                "workers": 1, "batch_rows": 8, "epochs": 12.0, "lr": 1e-2, "log_every": 1,
                "tagged_share": 0.5, "tag_rate": 0.5,
            },
        )
    )  # fmt: skip
    assert (record["rows_in"], record["rejected"]) == (43, 3)
    assert 0 < record["tagged"] < 20
    reasons = {
        row["id"]: row["rejected_reason"]
        for row in pq.read_table(output / "rows" / "rejected" / "shard-00000.parquet").to_pylist()
    }
    assert reasons["b1"] == "no messages"
    assert "unknown role 'bot'" in reasons["b2"]
    assert "invalid JSON" in reasons["chats.jsonl:43"]

    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    model = AutoModelForCausalLM.from_pretrained(output / "model", dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id
    prompt = tokenizer.apply_chat_template(
        good[0]["messages"][:1], add_generation_prompt=True, return_tensors="pt"
    )
    tag_id = tokenizer.get_added_vocab()["<|harmful|>"]
    output = model.generate(**prompt, max_new_tokens=30, do_sample=False, suppress_tokens=[tag_id])
    text = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert text == "fox jumps over the lazy dog<|im_end|>"
