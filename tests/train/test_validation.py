"""Validation of checkpoints during training, compared with transformers on the exported model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tensorboardX.proto.event_pb2 import Event
from training_runs import validated_settings as settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import pretrain
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.train.checkpoint import names
from safety_ray.train.metrics import Validations
from safety_ray.train.settings import PretrainConfig

WriteRows = Callable[..., str]


def test_validation_measures_every_checkpoint_with_keep_one(
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


def test_validation_metrics_match_transformers(
    validated: tuple[PretrainConfig, dict[str, Any]], validated_rows: str
) -> None:
    config, record = validated
    folder = f"{config.output}/model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tag_id = tokenizer.get_added_vocab()["<|harmful|>"]
    held_out = dataset.table(f"{validated_rows}/heldout").to_pylist()
    p_tag: dict[int, float] = {}
    nll: dict[int, tuple[float, int]] = {}
    for number, row in enumerate(held_out):
        ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
        with torch.inference_mode():
            output = model(input_ids=ids, labels=ids)
        p_tag[number] = output.logits.softmax(-1)[0, :, tag_id].mean().item()
        nll[number] = (output.loss.item() * (ids.shape[1] - 1), ids.shape[1] - 1)
    validation = record["validation"]
    safe = [n for n, row in enumerate(held_out) if row["label"] <= 1]
    unsafe = [n for n, row in enumerate(held_out) if row["label"] >= 4]
    auroc = roc_auc_score([0] * len(safe) + [1] * len(unsafe), [p_tag[n] for n in [*safe, *unsafe]])
    assert validation["p_tag_auroc"] == pytest.approx(auroc, abs=1e-4)
    expected = math.exp(sum(nll[n][0] for n in safe) / sum(nll[n][1] for n in safe))
    assert validation["perplexity_safe_with_tag"] == pytest.approx(expected, rel=1e-3)
    # Renormalized without the tag, a text is more probable. All safe documents are from one source.
    assert (
        validation["perplexity/web"]
        == validation["perplexity_safe"]
        <= validation["perplexity_safe_with_tag"]
    )
    assert validation["perplexity/forum"] == validation["perplexity_unsafe"]


def test_validation_writes_tensorboard_events_per_step(
    validated: tuple[PretrainConfig, dict[str, Any]],
) -> None:
    config, _ = validated
    logged: dict[int, float] = {}
    for file in Path(config.output, "tensorboard").iterdir():
        for event in _events(file.read_bytes()):
            for value in event.summary.value:
                if value.tag == "validation/p_tag_auroc":
                    logged[event.step] = value.simple_value
    lines = Validations(config.output).lines()
    assert logged == {line["step"]: pytest.approx(line["p_tag_auroc"], abs=1e-6) for line in lines}


def _events(data: bytes) -> list[Event]:
    """Parse a TFRecord file; a record is length (8 bytes), its checksum (4), the event, its checksum (4)."""
    events, offset = [], 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 8], "little")
        events.append(Event.FromString(data[offset + 12 : offset + 12 + size]))
        offset += 16 + size
    return events


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"cpus": 10_000}, "validation.cpus=10000 need"),
        ({"documents": ["nowhere"]}, "nowhere"),
        ({"classifier": "no classifier"}, "no classifier"),
        ({"unsafe_from": 0}, "must be less than unsafe_from=0"),
    ],
)
def test_validation_rejects_invalid_settings_before_training(
    validated_rows: str, tmp_path: Path, validation: dict[str, Any], message: str, ray_cluster: None
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain.pretrain_model(settings(validated_rows, tmp_path / "out", **validation))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
