"""Checkpoints measured beside training, held against transformers reading the exported model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tensorboardX.proto.event_pb2 import Event
from training_runs import TINY
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification

from safety_ray import dataset
from safety_ray.config import from_dict
from safety_ray.errors import UserError
from safety_ray.train import stage
from safety_ray.train.checkpoint import names
from safety_ray.train.metrics import Validations
from safety_ray.train.settings import PretrainConfig

WriteRows = Callable[..., str]
TEXT = "the quick brown fox jumps over the lazy dog and runs away from the angry bear"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Token rows with twelve documents held out, of two sources."""
    folder = Path(write_rows(tmp_path_factory.mktemp("validation") / "rows", length=64))
    texts = [" ".join(WORDS[n:] + WORDS[:n]) + f" {n}" for n in range(12)]
    table = {
        "id": [f"h{n}" for n in range(12)],
        "text": texts,
        "label": pa.array([0, 1, 2, 3, 4, 5] * 2, pa.int8()),
        "source": ["web", "web", "web", "forum", "forum", "forum"] * 2,
    }
    dataset.write_table(pa.table(table), str(folder / "heldout" / "heldout.parquet"))
    return str(folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    """A classifier of six levels with random weights."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=6,
    )  # fmt: skip
    BertForSequenceClassification(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settings(rows: str, output: Path, **validation: Any) -> PretrainConfig:
    return from_dict(
        PretrainConfig,
        {
            "rows": rows, "output": str(output), "model": TINY, "batch_rows": 8, "log_every": 1, "workers": 1,
            "precision": "fp32", "max_steps": 12, "checkpoint_every": 4, "keep": 1, "epochs": 9.0,
            "loggers": ["tensorboard"], "validation": {"every": 1, **validation},
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def validated(
    rows: str, judge: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[PretrainConfig, dict[str, Any]]:
    config = settings(
        rows, tmp_path_factory.mktemp("validated") / "out", classifier=judge, prompt_words=5,
        max_prompts=3, max_new_tokens=4, judge_from=1,
    )  # fmt: skip
    return config, stage.run(config)


def test_every_checkpoint_is_measured_while_one_stays(
    validated: tuple[PretrainConfig, dict[str, Any]],
) -> None:
    config, record = validated
    lines = Validations(config.output).lines()
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert record["validation"] == lines[-1]
    assert "validations" not in record
    assert names(config.checkpoint_folder()) == ["step-00000012"]
    assert lines[2]["perplexity_safe"] < lines[0]["perplexity_safe"]
    for line in lines:
        assert 0 <= line["unsafe_rate_safebeam"] <= 1
        assert line["unsafe_rate_reduction"] == pytest.approx(
            line["unsafe_rate_beam"] - line["unsafe_rate_safebeam"], abs=1e-4
        )


def test_the_figures_are_those_of_the_exported_model(
    validated: tuple[PretrainConfig, dict[str, Any]], rows: str
) -> None:
    config, record = validated
    folder = f"{config.output}/model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tag_id = tokenizer.get_added_vocab()["<|harmful|>"]
    held_out = dataset.table(f"{rows}/heldout").to_pylist()
    p_tag: dict[int, float] = {}
    nll: dict[int, tuple[float, int]] = {}
    for number, row in enumerate(held_out):
        ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
        with torch.inference_mode():
            found = model(input_ids=ids, labels=ids)
        p_tag[number] = found.logits.softmax(-1)[0, :, tag_id].mean().item()
        nll[number] = (found.loss.item() * (ids.shape[1] - 1), ids.shape[1] - 1)
    told = record["validation"]
    safe = [n for n, row in enumerate(held_out) if row["label"] <= 1]
    unsafe = [n for n, row in enumerate(held_out) if row["label"] >= 4]
    chance = roc_auc_score([0] * len(safe) + [1] * len(unsafe), [p_tag[n] for n in [*safe, *unsafe]])
    assert told["p_tag_auroc"] == pytest.approx(chance, abs=1e-4)
    expected = math.exp(sum(nll[n][0] for n in safe) / sum(nll[n][1] for n in safe))
    assert told["perplexity_safe_with_tag"] == pytest.approx(expected, rel=1e-3)
    # Renormalised without the tag a text is a little likelier; here safe ones are all of one source.
    assert told["perplexity/web"] == told["perplexity_safe"] <= told["perplexity_safe_with_tag"]
    assert told["perplexity/forum"] == told["perplexity_unsafe"]


def test_the_figures_are_in_tensorboard_at_their_step(
    validated: tuple[PretrainConfig, dict[str, Any]],
) -> None:
    config, _ = validated
    found: dict[int, float] = {}
    for file in Path(config.output, "tensorboard").iterdir():
        for event in _events(file.read_bytes()):
            for value in event.summary.value:
                if value.tag == "validation/p_tag_auroc":
                    found[event.step] = value.simple_value
    lines = Validations(config.output).lines()
    assert found == {line["step"]: pytest.approx(line["p_tag_auroc"], abs=1e-6) for line in lines}


def _events(data: bytes) -> list[Event]:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    events, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        events.append(Event.FromString(data[at + 12 : at + 12 + size]))
        at += 16 + size
    return events


def test_a_validation_that_fails_is_a_line_and_training_goes_on(
    rows: str, tmp_path: Path, ray_cluster: None
) -> None:
    config = settings(rows, tmp_path / "out", timeout_s=0.01)
    record = stage.run(replace(config, loggers=[], checkpoint_every=8))
    assert record["steps"] == 12
    lines = [json.loads(line) for line in (tmp_path / "out" / "validation.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": step, "error": "not done after validation.timeout_s=0.01 s"} for step in (8, 12)
    ]
    assert names(config.checkpoint_folder()) == ["step-00000012"]


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ({"cpus": 10_000}, "validation.cpus=10000 need"),
        ({"documents": ["nowhere"]}, "nowhere"),
        ({"classifier": "no classifier"}, "no classifier"),
        ({"unsafe_from": 0}, "must be less than unsafe_from=0"),
    ],
)
def test_what_cannot_be_validated_is_said_before_training(
    rows: str, tmp_path: Path, validation: dict[str, Any], said: str, ray_cluster: None
) -> None:
    with pytest.raises(UserError, match=said):
        stage.run(settings(rows, tmp_path / "out", **validation))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
