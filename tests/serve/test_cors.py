"""Requests from pages of other websites, as browsers send them: refused unless `allow_origins` names them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from ingress_in_process import ingress_client
from known_model import KEY
from starlette.testclient import TestClient

from safety_ray.core.errors import UserError
from serve.access import AccessRules
from serve.app import ServeConfig

SITE, OTHER = "https://example.com", "https://example.org"
PREFLIGHT = {
    "Origin": SITE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}
ALLOWED = "access-control-allow-origin"


async def no_answer(body: Any) -> AsyncGenerator[Any, None]:
    raise NotImplementedError
    yield


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys").write_text(KEY)
    return str(tmp_path / "keys")


def preflight(client: TestClient, origin: str) -> Any:
    return client.options("/v1/completions", headers={**PREFLIGHT, "Origin": origin})


def test_endpoint_sends_no_cors_headers_by_default() -> None:
    client = ingress_client(no_answer)
    for reply in (preflight(client, SITE), client.get("/v1/safety", headers={"Origin": SITE})):
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert preflight(client, SITE).status_code == 405


def test_endpoint_permits_named_origins_only(keys: str) -> None:
    client = ingress_client(no_answer, AccessRules(api_keys=keys, allow_origins=(SITE,)))
    asked = preflight(client, SITE)  # has no key
    assert (asked.status_code, asked.headers[ALLOWED]) == (200, SITE)
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    refused = client.post("/v1/completions", headers={"Origin": SITE}, json={})
    assert (refused.status_code, refused.headers[ALLOWED]) == (401, SITE)  # the page can read the error
    assert ALLOWED not in preflight(client, OTHER).headers
    assert ALLOWED not in client.get("/v1/safety", headers={"Origin": OTHER}).headers


def test_endpoint_permits_all_origins_on_request() -> None:
    client = ingress_client(no_answer, ServeConfig(model="a", allow_origins=["*"]).access())
    assert client.get("/v1/safety", headers={"Origin": OTHER}).headers[ALLOWED] == "*"


@pytest.mark.parametrize(
    "origin", ["example.com", "https://example.com/", "https://example.com/a", "", "**", "://a"]
)
def test_serve_config_rejects_invalid_origin(origin: str) -> None:
    with pytest.raises(UserError, match="must be scheme, host and port"):
        ServeConfig(model="a", allow_origins=[SITE, origin])
