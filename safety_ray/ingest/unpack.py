"""Gzip and Zstandard undone while a file is read: where each piece lay, and where the packing breaks.

Archives of a crawl are many gzip members or Zstandard frames one after the other, one for each
record (WARC 1.1, annex D). Libraries that unpack such a file as one stream lose both the offset
of a record in the file and the difference between a file that ends and one that was cut off.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

from safety_ray.ingest.source import Source

_BLOCK = 1 << 16
_PIECE = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_DICTIONARY = 0x184D2A5D  # of a .warc.zst: the skippable frame before all others


@dataclass(frozen=True, slots=True)
class Piece:
    """Unpacked bytes; `offset` is where they lie in a plain file, else where their member begins."""

    offset: int
    data: bytes
    first: bool
    """the first piece of its member; of a plain file only the file's first"""


@dataclass(frozen=True, slots=True)
class Break:
    """A member that begins at byte `offset` of the file cannot be unpacked to its end."""

    offset: int
    reason: str


def pieces(source: Source, resume_at: bytes = b"") -> Iterator[Piece | Break]:
    """The bytes of a file, unpacked if its first bytes are those of gzip or Zstandard.

    Nothing follows a Break, unless a later member can be found that begins with `resume_at`.
    """
    head = source.read(_BLOCK) or b""
    if head.startswith(_GZIP):
        return _members(source, head, _Gzip, _GZIP, "gzip member", resume_at)
    if head.startswith(_ZSTD) or _skippable(head):
        dictionary, at = _dictionary(source)

        def frame() -> _Zstd:
            return _Zstd(dictionary)

        return _members(source, b"", frame, _ZSTD, "Zstandard frame", resume_at, at)
    return _plain(source, head)


def is_packed(source: Source) -> bool:
    """Whether `pieces` unpacks this file; leaves the position at the start."""
    head = source.read(8) or b""
    source.seek(0)
    return head.startswith((_GZIP, _ZSTD)) or _skippable(head)


class Unpacked(io.RawIOBase):
    """The unpacked file as one stream that ends where the packing breaks; `broken` then says how."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.broken: Break | None = None
        self._source, self._pieces, self._rest = source, pieces(source), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self.broken is None:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            if isinstance(piece, Break):
                self.broken = piece
            else:
                self._rest = memoryview(piece.data)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


class _Member(Protocol):
    @property
    def done(self) -> bool: ...

    def step(self, packed: bytes) -> tuple[bytes, bytes]:
        """Some unpacked bytes, and the packed ones that are left."""


class _Gzip:
    def __init__(self) -> None:
        self._state = zlib.decompressobj(31)

    @property
    def done(self) -> bool:
        return self._state.eof

    def step(self, packed: bytes) -> tuple[bytes, bytes]:
        data = self._state.decompress(packed, _PIECE)
        return data, self._state.unused_data if self.done else self._state.unconsumed_tail


class _Zstd:
    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None) -> None:
        self._state = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()

    @property
    def done(self) -> bool:
        return bool(self._state.eof)

    def step(self, packed: bytes) -> tuple[bytes, bytes]:
        # The library has no limit on what comes out, so little goes in at a time.
        some, rest = packed[: 1 << 13], packed[1 << 13 :]
        data = self._state.decompress(some)
        return data, self._state.unused_data + rest if self.done else rest


def _plain(source: Source, data: bytes) -> Iterator[Piece | Break]:
    at = 0
    while data:
        yield Piece(at, data, first=at == 0)
        at += len(data)
        data = source.read(_PIECE) or b""


def _members(
    source: Source,
    packed: bytes,
    start: Callable[[], _Member],
    magic: bytes,
    what: str,
    resume_at: bytes,
    at: int = 0,
) -> Iterator[Piece | Break]:
    """`packed` is what was read of the file from byte `at` on."""
    while True:
        packed = packed or source.read(_BLOCK) or b""
        if not packed:
            return
        if magic == _GZIP and packed[0] == 0:  # padding, which gzip allows between members
            at, packed = at + 1, packed[1:]
            continue
        begin, first, problem, held, cut = at, True, "", b"", False
        try:
            member = start()  # fails where the dictionary is damaged
            while not member.done and not problem:
                packed = packed or source.read(_BLOCK) or b""
                if not packed:
                    problem = f"the file ends inside the {what} that begins at byte {begin:,}"
                    cut = True
                    break
                data, rest = member.step(packed)
                at, packed = at + len(packed) - len(rest), rest
                data, held = held + data, b""
                if first and len(data) < len(resume_at) and not member.done:
                    held = data  # so that a first piece shows how its member begins
                elif data:
                    yield Piece(begin, data, first)
                    first = False
        except (zlib.error, zstandard.ZstdError) as error:
            problem = f"the {what} that begins at byte {begin:,} is damaged ({error})"
        if problem:
            later = _later(source, begin + 1, start, magic, resume_at) if resume_at else None
            if later is not None and cut:  # others follow, so it is not the file that ends
                problem = f"the {what} that begins at byte {begin:,} is damaged (it has no end)"
            yield Break(begin, problem)
            if later is None:
                return
            at, packed = later


def _later(
    source: Source, at: int, start: Callable[[], _Member], magic: bytes, resume_at: bytes
) -> tuple[int, bytes] | None:
    """Where from byte `at` on a member begins that unpacks to `resume_at`, and the bytes read from there."""
    window, probe = b"", 1 << 10
    source.seek(at)
    while block := source.read(_BLOCK):
        window += block
        last = len(block) < _BLOCK
        place = window.find(magic)
        while place >= 0 and (last or place + probe <= len(window)):
            try:
                if start().step(window[place : place + probe])[0].startswith(resume_at):
                    return at + place, window[place:]
            except (zlib.error, zstandard.ZstdError):
                pass
            place = window.find(magic, place + 1)
        kept = min(len(window), probe)
        at, window = at + len(window) - kept, window[len(window) - kept :]
    return None


def _skippable(head: bytes) -> bool:
    return len(head) >= 8 and struct.unpack("<I", head[:4])[0] in _SKIPPABLE


def _dictionary(source: Source) -> tuple[zstandard.ZstdCompressionDict | None, int]:
    """The dictionary that a .warc.zst begins with, and the byte after all its first skippable frames.

    Source: https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    at, dictionary = 0, None
    source.seek(0)
    while _skippable(head := source.read(8) or b""):
        kind, size = struct.unpack("<II", head)
        if kind == _DICTIONARY and dictionary is None and size <= _PIECE << 10:
            content = source.read(size) or b""
            try:
                if content.startswith(_ZSTD):
                    content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
                dictionary = zstandard.ZstdCompressionDict(content)
            except (zstandard.ZstdError, ValueError):
                dictionary = None  # the frames that need it will be damaged ones
        at += 8 + size
        source.seek(at)
    source.seek(at)
    return dictionary, at
