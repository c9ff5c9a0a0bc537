"""One endpoint for all tests that need one: it takes most of a minute to start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_model import REFUSAL, log_table, small_tokenizer, write_model
from openai import OpenAI
from transformers import PreTrainedTokenizerFast

from serve.app import ServeConfig, start, stop


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """As another project writes it: it makes special tokens of text that spells them."""
    return small_tokenizer(split_special_tokens=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer, log_table(tokenizer))


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.fixture(scope="module")
def client(ray_cluster: None, model: Path, free_port: int) -> Iterator[OpenAI]:
    config = ServeConfig(model=str(model), port=free_port, threshold=0.3, refusal=REFUSAL)
    url = start(config)
    assert url == f"http://127.0.0.1:{free_port}/v1"
    try:
        with OpenAI(base_url=url, api_key="none", timeout=120, max_retries=0) as made:
            yield made
    finally:
        stop()
