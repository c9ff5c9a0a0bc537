"""Model and batch of the measured steps: a Llama of this project, and random ids."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks.train.settings import LENGTH, VOCABULARY
from safety_ray.core.config import from_dict
from safety_ray.train.batches import Batch, document_positions, next_tokens
from safety_ray.train.model import LanguageModel, build
from safety_ray.train.settings import ModelConfig


def network(shape: dict[str, Any]) -> LanguageModel:
    """Build a model of this shape, with weights from torch's global generator."""
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1")
    return build(from_dict(ModelConfig, shape), tokenizer, context=LENGTH, device="cpu")


def batch_of(ids: torch.Tensor) -> Batch:
    """Return a batch of rows with one document each, in which all tokens are targets."""
    zeros = torch.zeros_like(ids)
    targets = next_tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    return Batch(ids, targets, zeros, document_positions(zeros))
