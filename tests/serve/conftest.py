"""One endpoint for all tests that need one (it takes most of a minute to start), and a browser."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import launched
from known_model import REFUSAL, log_table, small_tokenizer, write_model
from openai import OpenAI
from playground_page import Playground, open_playground
from playwright.sync_api import Browser
from scripted_endpoint import ScriptedEndpoint, scripted_endpoint
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Opened after a module's endpoint and closed before the next module: see browser.py for why."""
    with launched() as started:
        yield started


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint("/under/a/prefix/") as serving:
        yield serving


@pytest.fixture
def open_page(browser: Browser, endpoint: ScriptedEndpoint) -> Iterator[Callable[..., Playground]]:
    """Opens the scripted endpoint's page; afterwards nothing may have failed but requests by script."""
    opened: list[Playground] = []

    def open_one(**how: Any) -> Playground:
        opened.append(open_playground(browser, endpoint.url, **how))
        return opened[-1]

    yield open_one
    for one in opened:
        one.page.close()
        assert one.strangers == []
        assert [said for said in one.errors if "the server responded with a status" not in said] == []
    assert endpoint.missing == []
