"""Endpoints without the guard or with one part of it bypassed refuse to start, each with one sentence."""

from __future__ import annotations

import dataclasses

import pytest
import unguarded

from safety_ray.core.errors import UserError
from safety_ray.core.ports import free_port
from serve.app import ServeConfig, check_port, start

pytestmark = pytest.mark.covers("serve", "safety_ray.compat")


@pytest.mark.parametrize(
    ("server", "finding"),
    [
        ("WithoutGuard", "calls the engine's own generate"),
        ("WithLeakyRenderer", "a prompt that spells the tag failed"),
        ("WithForwardingGuard", "calls the engine's own generate"),
        ("WithoutIdCheck", "a prompt with the tag's token id was not refused"),
    ],
)
def test_endpoint_with_bypassed_guard_refuses_to_start(
    ray_cluster: None,
    no_endpoint: None,
    config: ServeConfig,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    finding: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", unguarded.PYTHONPATH)
    settings = dataclasses.replace(config, port=free_port())
    with pytest.raises(UserError) as refused:
        start(settings, getattr(unguarded, server))
    sentence = str(refused.value)
    assert sentence.startswith("the endpoint did not start: the guard does not protect the model: ")
    assert finding in sentence
    assert "\n" not in sentence
    check_port(settings.host, settings.port)
