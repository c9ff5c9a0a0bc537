"""Fixtures: a training run with two workers on Ray, with validation of every checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training_runs import validated_settings, with_heldout
from transformers import BertConfig, BertForSequenceClassification

from jobs import pretrain
from safety_ray.train.settings import PretrainConfig

WriteRows = Callable[..., str]


@pytest.fixture(scope="session")
def validated_rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return with_heldout(tmp_path_factory.mktemp("validation") / "rows", write_rows)


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    """A six-level classifier with random weights."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=6,
    )  # fmt: skip
    BertForSequenceClassification(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def validated(
    validated_rows: str, judge: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[PretrainConfig, dict[str, Any]]:
    config = validated_settings(
        validated_rows, tmp_path_factory.mktemp("validated") / "out", classifier=judge, prompt_words=5,
        max_prompts=3, max_new_tokens=4, judge_from=1,
    )  # fmt: skip
    return config, pretrain.pretrain_model(config)
