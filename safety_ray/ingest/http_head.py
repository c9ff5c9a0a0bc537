"""Split a stored HTTP response into its status, headers and body, at least as tolerantly as browsers do."""

from __future__ import annotations

import re

_STATUS = re.compile(
    rb"\s*+(?:\xef\xbb\xbf\s*+)?+(?:HTTP(?:/\d+(?:\.\d+)?)?|ICY)[ \t]+(\d{3})(?!\d)", re.IGNORECASE
)
_LINE_END = re.compile(rb"\r*\n|\r")
_END = re.compile(rb"\n\r{0,2}\n")
_END_WITH_CR = re.compile(rb"\r\r|\n\r{0,2}\n")
_INTERIM = range(100, 200)


def split(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers with names in lower case, and body. Raises ValueError without a status line.

    Lines end in CR LF or LF, or in CR if the status line does. A byte order mark and interim responses
    (`100 Continue`) before the response are skipped.
    """
    while True:
        status = _STATUS.match(response)
        if status is None:
            raise ValueError(f"it begins with {response[:20]!r}")
        line_end = _LINE_END.search(response, status.end())
        is_cr = line_end is not None and line_end[0] == b"\r"
        end = (_END_WITH_CR if is_cr else _END).search(response, status.end())
        head, body = (response[: end.start()], response[end.end() :]) if end else (response, b"")
        if int(status[1]) not in _INTERIM or _STATUS.match(body) is None:
            return int(status[1]), _headers(head[status.end() :]), body
        response = body


def _headers(lines: bytes) -> dict[str, str]:
    """Return the fields of a head without the beginning of its status line."""
    headers: dict[str, str] = {}
    last = ""
    for line in lines.splitlines()[1:]:
        if line[:1] in (b" ", b"\t") and last:  # continues the line before
            headers[last] = f"{headers[last]} {_decoded(line)}"
            continue
        name, colon, value = line.partition(b":")
        if colon:
            last = _decoded(name).lower()
            headers[last] = _decoded(value)
    return headers


def _decoded(field: bytes) -> str:
    try:
        return field.decode("utf-8").strip()
    except UnicodeDecodeError:
        return field.decode("latin-1").strip()
