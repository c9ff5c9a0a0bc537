"""Access control in front of the ingress's HTTP routes: API keys, body size, concurrent requests.

A request without a valid key is answered with 401, with too large a body with 413, and beyond its client's
number of concurrent requests with 429, all before the body is read. Without keys, each address is a client.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_ray.core.errors import UserError
from serve.errors import EndpointError, error_response

PAGE = Path(__file__).parent / "playground"
OPEN = {"", "/", "/v1/safety", *(f"/{file.name}" for file in PAGE.iterdir())}
"""Paths that can be read without a key."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Limits of access. `api_keys` is the location of the keys: a file with one per line, or env:NAME."""

    api_keys: str = ""
    max_concurrent: int = 0  # requests of one client; 0: no limit
    max_body_bytes: int = 1 << 20
    allow_origins: tuple[str, ...] = ()
    """origins of the websites whose pages may send requests and read the answers; "*": all"""


def check_origin(origin: str) -> None:
    """Raise UserError if `origin` is not in the form that browsers send, and therefore never matches."""
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise UserError(
            f"allow_origins: '{origin}' must be scheme, host and port, as in https://example.com:8080, or *."
        )


def read_keys(location: str) -> list[bytes]:
    """Return the SHA-256 of each key at `location`, or an empty list if it is empty.

    Raises UserError, without any key in its message, if the keys cannot be read or are too short.
    """
    if not location:
        return []
    if location.startswith("env:"):
        text = os.environ.get(location[4:], "")
        where = f"the environment variable {location[4:]}"
    else:
        try:
            text, where = Path(location).read_text(), f"the file '{location}'"
        except OSError as error:
            raise UserError(f"the API keys cannot be read from '{location}': {error.strerror}.") from error
    lines = [line.strip() for line in text.replace(",", "\n").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"api_keys: {where} has no keys; write one per line.")
    if short := sum(len(key) < 16 for key in keys):
        raise UserError(f"api_keys: {where} has {short} keys of less than 16 characters; use longer ones.")
    return [hashlib.sha256(key.encode()).digest() for key in keys]


class Access:
    """ASGI middleware that applies AccessRules; it reads the keys on the machine that serves."""

    def __init__(self, app: Any, rules: AccessRules) -> None:
        self._app, self._rules = app, rules
        self._keys = read_keys(rules.api_keys)
        self._running: Counter[str] = Counter()  # requests of each client

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
            await _send_error(send, 401, "no valid API key; send it as 'Authorization: Bearer <key>'.")
            return
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._rules.max_body_bytes:
            await _send_error(send, 413, _TOO_LARGE.format(self._rules.max_body_bytes))
            return
        limit = self._rules.max_concurrent
        if limit and self._running[client] >= limit:
            await _send_error(send, 429, f"more than {limit} concurrent requests; wait until one has ended.")
            return
        body = _LimitedBody(receive, send, self._rules.max_body_bytes)
        self._running[client] += 1
        try:
            await self._app(scope, body.receive, body.send)
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def _client(self, headers: dict[str, str], scope: Any) -> str | None:
        """Return the digest of the client's key, or its address if no keys are set; None: no valid key."""
        if not self._keys:
            return str((scope.get("client") or ("",))[0])
        kind, _, key = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest()
        # Compare with all keys, each in constant time.
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        return digest.hex() if kind.lower() == "bearer" and any(matches) else None


class _LimitedBody:
    """The body of a request without a declared length; the answer is a 413 if it exceeds `max_bytes`."""

    def __init__(self, receive: Any, send: Any, max_bytes: int) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self._num_bytes, self._answered = 0, False

    async def receive(self) -> Any:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self._num_bytes > self._max_bytes else message

    async def send(self, message: Any) -> None:
        if self._num_bytes <= self._max_bytes:
            await self._send(message)
        elif not self._answered:  # replaces whatever the application answers to a truncated body
            self._answered = True
            await _send_error(self._send, 413, _TOO_LARGE.format(self._max_bytes))


_TOO_LARGE = "the request's body is larger than {} bytes."


async def _send_error(send: Any, status: int, message: str) -> None:
    await error_response(EndpointError(status, message))({"type": "http"}, None, send)  # type: ignore[arg-type]
