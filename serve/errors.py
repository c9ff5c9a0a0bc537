"""The one form of the endpoint's errors, OpenAI's, and the messages that may leave the endpoint.

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": 400}}

Every error passes `error_body`, whether it is a response or the last event of a stream. Only messages that
describe a request leave the endpoint (failed_requests.py), and of these only messages of plain words: a path,
an address, an id or a stack frame never does.
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
_VALUES = re.compile(r" \((?:parameter|value)=")
"""beginning of vLLM's suffix with the name and value of the parameter"""
_BETWEEN_WORDS = re.compile(r"""[\s=,;'"`()\[\]{}<>]+""")
_PLAIN = re.compile(
    r"""
    (?: [a-z_-]+                                                    # words, names of fields
      | -?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,20})?(?:e[+-][0-9]+)?  # numbers; ids have more digits
      | -?922337203685477580[78]                                    # ends of the range of 64 bits
      | [0-9]{1,4}/[0-9]{1,4} | [0-9]{4}-[0-9]{2}-[0-9]{2}          # fractions, dates
      | (?:safety|structured_outputs|tool_choice)(?:\.[a-z_]+)+     # fields of fields
      | /v1/(?:chat/)?completions | /v1/models | /v1/safety | /(?:de)?tokenize
      | application/json | and/or | UTF-8
    )?
    [.:!?%…]*
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_NOT_PLAIN = re.compile(
    r"""
    \bTraceback\b | \bFile\ ["<] | \bline\ [0-9]+,?\ in\b  # stack frames
    | \blocalhost\b | :: | \bpid\b                          # addresses and processes made of plain words
    | (?<![a-z])[a-f]{8,}(?![a-z])                          # ids that have no digit
    """,
    re.VERBOSE | re.IGNORECASE,
)


class EndpointError(Exception):
    """An error as a client receives it; `param` names the field of the request.

    `known` is a name in the message that clients may see whatever its form: that of the model.
    """

    def __init__(self, status: int, message: str, param: str | None = None, known: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.known = status, message, param, known


def public_message(message: str, is_server_error: bool = False, known: str = "") -> str:
    """Return `message` as one short line, or a replacement unless each of its words is plain.

    Plain are words without digits, numbers, and the endpoint's own paths. All paths, addresses, ids and
    modules have something else: slashes, dots or colons within a word, or letters beside digits. `known` in
    quotes is plain.
    """
    line = " ".join(_VALUES.split(message, maxsplit=1)[0].split())
    if len(line) > _MAX_CHARS:
        line = f"{line[: _MAX_CHARS - 2].rpartition(' ')[0]} …"
    if _is_plain(line.replace(f"'{known}'", "''")):
        return line
    return HAS_FAILED if is_server_error else CANNOT_PROCESS


def _is_plain(text: str) -> bool:
    """Return whether `text` has words, and only plain ones."""
    words = _BETWEEN_WORDS.split(text)
    return any(map(str.isalpha, text)) and all(map(_PLAIN.fullmatch, words)) and not _NOT_PLAIN.search(text)


def error_body(error: EndpointError) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    status = error.status
    return {
        "error": {
            "message": public_message(error.message, status >= 500, error.known),
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": error.param if error.param and _is_plain(error.param) else None,
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
