"""Who may ask, how much, and how often: what stands before the HTTP routes of the ingress.

A request without a known key is a 401, one with too large a body a 413, one more than its client may
have at once a 429; all before its body is read. Where no keys are set each address is a client.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_ray.core.errors import UserError

PAGE = Path(__file__).parent / "playground"
OPEN = {"", "/", "/v1/safety", *(f"/{file.name}" for file in PAGE.iterdir())}  # GET without a key


@dataclass(frozen=True, slots=True)
class AccessRules:
    """`api_keys` names where the keys are, never the keys: a file with one per line, or env:NAME."""

    api_keys: str = ""
    max_concurrent: int = 0  # requests of one client at once; 0: any number
    max_body_bytes: int = 1 << 20


def read_keys(place: str) -> list[bytes]:
    """SHA-256 of each key at `place`; empty where no keys are set. Raises UserError, which names no key."""
    if not place:
        return []
    if place.startswith("env:"):
        text = os.environ.get(place[4:], "")
        where = f"the environment variable {place[4:]}"
    else:
        try:
            text, where = Path(place).read_text(), f"the file '{place}'"
        except OSError as error:
            raise UserError(f"the API keys cannot be read from '{place}': {error.strerror}.") from error
    lines = [line.strip() for line in text.replace(",", "\n").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"api_keys: {where} holds no keys; write one per line.")
    if short := sum(len(key) < 16 for key in keys):
        raise UserError(f"api_keys: {where} holds {short} keys of less than 16 characters; use longer ones.")
    return [hashlib.sha256(key.encode()).digest() for key in keys]


class Access:
    """ASGI middleware; `rules` travel with the deployment, keys are read where it runs."""

    def __init__(self, app: Any, rules: AccessRules) -> None:
        self._app, self._rules = app, rules
        self._keys = read_keys(rules.api_keys)
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and path in OPEN:
            await self._app(scope, receive, send)
            return
        client = self._client(headers, scope)
        if client is None:
            await _error(send, 401, "no valid API key: send it as 'Authorization: Bearer <key>'.")
            return
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._rules.max_body_bytes:
            await _error(send, 413, _TOO_LARGE.format(self._rules.max_body_bytes))
            return
        limit = self._rules.max_concurrent
        if limit and self._under_way[client] >= limit:
            await _error(send, 429, f"more than {limit} requests at once; wait until one has ended.")
            return
        body = _Body(receive, send, self._rules.max_body_bytes)
        self._under_way[client] += 1
        try:
            await self._app(scope, body.receive, body.send)
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    def _client(self, headers: dict[str, str], scope: Any) -> str | None:
        """Who asks: the digest of the key, or the address where there are no keys; None: nobody we know."""
        if not self._keys:
            return str((scope.get("client") or ("",))[0])
        kind, _, key = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest()
        # Every key is compared, each in constant time.
        known = [hmac.compare_digest(digest, each) for each in self._keys]
        return digest.hex() if kind.lower() == "bearer" and any(known) else None


class _Body:
    """The body of one request, of no declared length; where it grows too large the answer is a 413."""

    def __init__(self, receive: Any, send: Any, most: int) -> None:
        self._receive, self._send, self._most = receive, send, most
        self._read, self._answered = 0, False

    async def receive(self) -> Any:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self._read > self._most else message

    async def send(self, message: Any) -> None:
        if self._read <= self._most:
            await self._send(message)
        elif not self._answered:  # whatever the application makes of a body that was cut off
            self._answered = True
            await _error(self._send, 413, _TOO_LARGE.format(self._most))


_TOO_LARGE = "the request's body is larger than {} bytes."


async def _error(send: Any, status: int, message: str) -> None:
    kind = {401: "authentication_error", 413: "invalid_request_error", 429: "rate_limit_error"}[status]
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    headers = [(b"content-type", b"application/json")]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    headers += [(b"retry-after", b"1")] if status == 429 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
