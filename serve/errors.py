"""The one form of the endpoint's errors, OpenAI's, and the messages that may leave the endpoint.

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": 400}}

Every error passes `error_body`, whether it is a response or the last event of a stream. A message that
mentions something internal to the endpoint (a path, an address, an actor, a stack frame) is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
CANNOT_PROCESS, HAS_FAILED = "the request cannot be processed.", "the endpoint has failed; try again later."
_MAX_CHARS = 500
_VALUES = re.compile(r" \((?:parameter|value)=.*\)$", re.DOTALL)
"""vLLM's suffix with the name and value of the parameter"""
_INTERNAL = re.compile(
    r"""
    Traceback | \bFile\ " | \bline\ \d+,\ in\b  # stack frames
    | (?<![\w/:.<])/(?!v1/)[\w.+-]+/[\w.+-]+    # absolute paths other than the endpoint's own
    | \b\d{1,3}(?:\.\d{1,3}){3}\b               # IPv4 addresses
    | \b(?:localhost|\[?::1\]?):\d+             # ports
    | \b(?:[0-9a-f]{1,4}:){3,}[0-9a-f:]+        # IPv6 addresses
    | \b0x[0-9a-f]{6,}\b                        # addresses in memory
    | \b(?=\d*[a-f])[0-9a-f]{16,}\b             # ids of actors, nodes, jobs and objects
    | \bpid[=:\ ]                               # processes
    | \b(?:Actor|Replica|Task|Node|Worker)(?:ID)?\(
    | \bray::                                   # names of Ray's processes
    """,
    re.VERBOSE | re.IGNORECASE,
)


class EndpointError(Exception):
    """An error as a client receives it; `param` names the field of the request."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


def public_message(message: str, is_server_error: bool = False) -> str:
    """Return `message` as one short line, or a replacement if it mentions something internal."""
    line = " ".join(_VALUES.sub("", message).split())
    if not line or _INTERNAL.search(line):
        return HAS_FAILED if is_server_error else CANNOT_PROCESS
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]}…"


def error_body(error: EndpointError) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    status = error.status
    return {
        "error": {
            "message": public_message(error.message, status >= 500),
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": error.param,
            "code": status,
        }
    }


def error_response(error: EndpointError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error as an HTTP response, with the headers that belong to its status."""
    by_status = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
    return JSONResponse(
        error_body(error),
        status_code=error.status,
        headers={**(headers or {}), **by_status.get(error.status, {})},
    )


def error_event(error: EndpointError) -> str:
    """Return the server-sent events that end a stream with an error."""
    return f"data: {json.dumps(error_body(error))}\n\ndata: [DONE]\n\n"
