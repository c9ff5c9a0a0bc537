"""Decode Transfer-Encoding and Content-Encoding of an HTTP response; damaged bodies as far as possible."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable

import zstandard
from fastwarc.stream_io import BrotliReader

_BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_STEP = 4096
_GZIP_BITS = 31

Decoded = tuple[bytes, bool]
"""The content, and whether it is complete (or as long as the limit)."""


class Damaged(Exception):
    """The content of a stream, of which an unknown part is wrong."""

    def __init__(self, content: bytes, reason: str, length_is_right: bool) -> None:
        super().__init__(reason)
        self.content, self.length_is_right = content, length_is_right


def unwrap(body: bytes, transfer: str, content: str, max_bytes: int) -> tuple[bytes, str | None]:
    """Decode Transfer-Encoding and Content-Encoding (the headers' values), up to `max_bytes` + 1 bytes.

    Of a truncated body, and of one with an invalid code, the part before the damage is returned. Crawlers
    often store a decoded body under its original headers, so a text body that is not encoded as its header
    declares is returned unchanged. Returns the reason as well if characters of the content may be wrong.
    Raises ValueError if the body is neither text nor decodable, or is not what was compressed.
    """
    damage: str | None = None
    names = [name.strip().lower() for name in content.split(",")]
    # Other names are "identity", and charsets that servers send in this header.
    names = [name for name in reversed(names) if name in _DECODERS]
    if "chunked" in transfer.lower():
        body = _join_chunks(body, packed=bool(names))
    for name in names:
        encoded = body
        try:
            body, complete = _DECODERS[name](encoded, max_bytes + 1)
        except Damaged as error:
            if not error.length_is_right:
                raise ValueError(f"{error}, so parts of the text are wrong") from error
            body, complete, damage = error.content, False, str(error)
        is_text = not _BINARY.search(encoded[:1024])
        if is_text and not complete:  # the decoder has taken letters for a stream
            body = b""
        if encoded and not body:
            if not is_text or not encoded.lstrip()[:1].isascii():
                raise ValueError(f"the body is not encoded as Content-Encoding '{name}' declares")
            body, damage = encoded, None
    return body, damage


def _join_chunks(body: bytes, packed: bool) -> bytes:
    """Return the content of the chunks, or `body` if it has none. A `packed` first one may be partial."""
    content, position = bytearray(), 0
    while (head := _CHUNK.match(body, position)) is not None:
        size = int(head[1], 16)
        chunk = body[head.end() : head.end() + size]
        position = head.end() + size
        follows = body[position : position + 2]
        complete = len(chunk) == size and (follows == b"\r\n" or follows[:1] == b"\n" or not follows)
        if not complete and not content and not (packed and _BINARY.search(chunk[:1024])):
            return body
        content += chunk
        if not complete or size == 0:
            break
        position += 2 if follows == b"\r\n" else 1
    return bytes(content) if content else body


def _inflate(body: bytes, limit: int, bits: int) -> tuple[bytes, bool, bytes]:
    """Return the content of a stream, whether it is complete, and the bytes after its end.

    Raises Damaged if a code is invalid or the checksum is wrong. Some programs write zeros instead.
    """
    content = bytearray()
    for step in (len(body) or 1, 1):  # after an error again, byte by byte, for all that precedes the error
        content.clear()
        state = zlib.decompressobj(bits)
        try:
            for start in range(0, len(body), step):
                content += state.decompress(body[start : start + step], limit - len(content))
                if state.eof or len(content) >= limit:
                    return bytes(content), True, state.unused_data
            break
        except zlib.error as error:
            if step == 1 and "incorrect data check" in str(error):  # at the fourth byte after the codes
                _check_trailer(bytes(content), body[start - 3 : start + 5], bits)
            elif step == 1 and content and "incorrect length check" not in str(error):
                raise Damaged(bytes(content), f"the body is damaged ({error})", True) from error
            continue
    return bytes(content), False, b""


def _check_trailer(content: bytes, trailer: bytes, bits: int) -> None:
    if any(trailer[:4]):
        size = int.from_bytes(trailer[4:], "little")
        length_is_right = bits != _GZIP_BITS or size == len(content)  # zlib's trailer has no length
        wrong = "checksum is" if length_is_right else "checksum and length are"
        raise Damaged(content, f"the {wrong} wrong in the body's trailer", length_is_right)


def _gzip(body: bytes, limit: int) -> Decoded:
    content, complete = b"", False
    while body.startswith(b"\x1f\x8b") and len(content) < limit:  # other bytes after a member are padding
        try:
            member, complete, body = _inflate(body, limit - len(content), _GZIP_BITS)
        except Damaged as error:
            raise Damaged(content + error.content, str(error), error.length_is_right) from error
        content += member
    return content, complete


def _deflate(body: bytes, limit: int) -> Decoded:
    # Servers send deflate with and without zlib's header.
    content, complete, _ = _inflate(body, limit, 15)
    if not content:
        content, complete, _ = _inflate(body, limit, -15)
    return content, complete


def _zstd(body: bytes, limit: int) -> Decoded:
    content = bytearray()
    state = zstandard.ZstdDecompressor().decompressobj()
    try:
        for start in range(0, len(body), _STEP):
            content += state.decompress(body[start : start + _STEP])
            if state.eof or len(content) >= limit:
                return bytes(content[:limit]), True
    except zstandard.ZstdError as error:
        if "checksum" in str(error):
            raise Damaged(bytes(content), "the checksum is wrong in the body's trailer", True) from error
    return bytes(content), False


def _brotli(body: bytes, limit: int) -> Decoded:
    content, reader = bytearray(), BrotliReader(io.BytesIO(body))
    try:
        while len(content) < limit:
            data = reader.read(min(_STEP, limit - len(content)))
            if not data:
                break
            content += data
    except OSError:
        return bytes(content), False
    return bytes(content), True


_DECODERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
