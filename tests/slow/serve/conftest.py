from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from one_endpoint import (
    browser,
    client,
    endpoint,
    model,
    no_endpoint,
    open_page,
    serve_config,
    stop_running,
    tokenizer,
)

from serve.app import ServeConfig

__all__ = [
    "browser",
    "client",
    "endpoint",
    "model",
    "no_endpoint",
    "open_page",
    "serve_config",
    "tokenizer",
]


@pytest.fixture(scope="session")
def config(serve_config: ServeConfig) -> ServeConfig:
    """The endpoint of these tests is behind Ray Serve's proxy; that of the fast tests answers HTTP itself."""
    return dataclasses.replace(serve_config, http="proxy")


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Stop the endpoint after the last test of this folder."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        stop_running()
