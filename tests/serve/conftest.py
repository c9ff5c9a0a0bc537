from __future__ import annotations

from pathlib import Path

import pytest
from one_endpoint import (
    browser,
    client,
    config,
    endpoint,
    model,
    no_endpoint,
    open_page,
    serve_config,
    stop_running,
    tokenizer,
)

__all__ = [
    "browser",
    "client",
    "config",
    "endpoint",
    "model",
    "no_endpoint",
    "open_page",
    "serve_config",
    "tokenizer",
]


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """The endpoint ends with the tests of this folder."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        stop_running()
