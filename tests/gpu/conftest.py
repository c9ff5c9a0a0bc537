"""Tests of this folder have the marker `gpu`, and are skipped on machines without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    gpu_items = [item for item in items if here in item.path.parents]
    if not gpu_items:
        return
    import torch

    for item in gpu_items:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU (torch.cuda.is_available() is false)"))


@pytest.fixture
def device() -> str:
    return "cuda"
