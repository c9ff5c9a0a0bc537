"""Fixtures: a small model with a tokenizer and the tag, documents, and a fitted classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.corpus import documents
from safety_ray.chat.template import ensure_chat_template
from safety_ray.core import dataset, tag
from safety_ray.corpus.seeds import load_seeds

POSITIONS = 128


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: more do not help such small models, and slow down other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def some_documents() -> list[dict[str, Any]]:
    """One document per second seed of the shipped corpus."""
    rows = documents(len(load_seeds()), seed=3)[::2]
    return [{name: row[name] for name in ("id", "text", "label")} for row in rows]


@pytest.fixture(scope="session")
def documents_path(some_documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("documents")
    dataset.write_table(pa.Table.from_pylist(some_documents), str(path / "rows.parquet"))
    return str(path)


@pytest.fixture(scope="session")
def classifier_path(classifier: Path) -> str:
    return str(classifier)


@pytest.fixture(scope="session")
def model_path(some_documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with random weights and a context of 128 tokens, in the layout of a finished run."""
    path: Path = tmp_path_factory.mktemp("training") / "model"
    write_model(path, [row["text"] for row in some_documents], with_tag=True)
    return str(path.parent)


@pytest.fixture(scope="session")
def untagged_path(some_documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of the same shape without the tag, and a tokenizer with a chat template and no tag."""
    path: Path = tmp_path_factory.mktemp("untagged")
    write_model(path, [row["text"] for row in some_documents], with_tag=False)
    return str(path)


def write_model(path: Path, texts: list[str], *, with_tag: bool) -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=tag.END_OF_TEXT)
    if with_tag:
        tag.add_tag(tokenizer)
    else:
        ensure_chat_template(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.15,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
