"""An endpoint without its guard refuses to start; this file runs after the shared endpoint has stopped."""

from __future__ import annotations

import dataclasses

import pytest
import unguarded

from safety_ray.core.errors import UserError
from safety_ray.core.ports import free_port
from serve.app import ServeConfig, check_port, start


@pytest.fixture
def own_port(
    ray_cluster: None, no_endpoint: None, config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> ServeConfig:
    monkeypatch.setenv("PYTHONPATH", unguarded.PYTHONPATH)
    return dataclasses.replace(config, port=free_port())


def test_endpoint_without_guard_refuses_to_start(own_port: ServeConfig) -> None:
    with pytest.raises(UserError) as refused:
        start(own_port, unguarded.WithoutGuard)
    assert "the endpoint did not start: the guard does not protect the model: " in str(refused.value)
    assert "calls the engine's own generate." in str(refused.value)
    assert "\n" not in str(refused.value)
    check_port(own_port.host, own_port.port)
