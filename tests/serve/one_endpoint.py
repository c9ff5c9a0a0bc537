"""Fixtures: one endpoint shared by all tests (starting it takes most of a minute), and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import launched
from known_model import KEY, OTHER_KEY, REFUSAL, log_table, small_tokenizer, write_model
from openai import OpenAI
from playground_page import Playground, open_playground
from playwright.sync_api import BrowserContext
from scripted_endpoint import ScriptedEndpoint, scripted_endpoint
from transformers import PreTrainedTokenizerFast

from safety_ray.core.ports import free_port
from serve.app import ServeConfig, start, stop


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with the defaults of transformers: it parses special and other added tokens in text."""
    tokenizer = small_tokenizer(split_special_tokens=False)
    tokenizer.add_tokens(["<tool>"])  # not special
    return tokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer, log_table(tokenizer))


_running: list[tuple[OpenAI, ServeConfig]] = []  # the shared endpoint, while it runs


@pytest.fixture(scope="session")
def serve_config(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"# for the tests\n{KEY}\n{OTHER_KEY}\n")
    return ServeConfig(
        model=str(model),
        port=free_port(),
        threshold=0.3,
        refusal=REFUSAL,
        api_keys=str(keys),
        max_concurrent=16,
        max_body_kib=64,
        health_check_period_s=1.0,
        drain_s=120.0,
    )


@pytest.fixture(scope="session")
def config(serve_config: ServeConfig) -> ServeConfig:
    return serve_config


@pytest.fixture
def client(ray_cluster: None, config: ServeConfig) -> OpenAI:
    """A client of the endpoint, which is started by the first test that uses this fixture."""
    if not _running:
        url = start(config)
        assert url == f"http://127.0.0.1:{config.port}/v1"
        _running.append((OpenAI(base_url=url, api_key=KEY, timeout=600, max_retries=0), config))
    return _running[0][0]


@pytest.fixture
def no_endpoint() -> None:
    """Stop the shared endpoint, for tests that start their own."""
    stop_running()


def stop_running() -> None:
    while _running:
        client, config = _running.pop()
        client.close()
        stop(config)


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """A browser, opened after a module's endpoint and closed before the next module (browser.py)."""
    with launched() as started:
        yield started


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint("/under/a/prefix/") as serving:
        yield serving


@pytest.fixture
def open_page(browser: BrowserContext, endpoint: ScriptedEndpoint) -> Iterator[Callable[..., Playground]]:
    """Open the scripted endpoint's page; afterwards check that only scripted requests have failed."""
    opened: list[Playground] = []

    def open_window(**options: Any) -> Playground:
        opened.append(open_playground(browser, endpoint.url, **options))
        return opened[-1]

    yield open_window
    for playground in opened:
        playground.page.close()
        assert playground.foreign_requests == []
        assert [e for e in playground.errors if "the server responded with a status" not in e] == []
    assert endpoint.missing == []
