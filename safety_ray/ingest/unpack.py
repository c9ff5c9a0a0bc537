"""Decompress gzip and Zstandard files, with the offset of each member and of damage.

Archives of a crawl are a sequence of gzip members or Zstandard frames, one for each record (WARC 1.1, annex
D). Libraries that decompress such a file as one stream lose the offset of a record in the file, and cannot
distinguish a complete file from a truncated one.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

from safety_ray.ingest.resumable_file import ResumableFile

_READ_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_ZSTD_WINDOW = 1 << 31  # that of zstd --long=31, the largest; memory is used as it is filled
_DICTIONARY = 0x184D2A5D  # first frame of a .warc.zst


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decompressed bytes."""

    offset: int
    """byte of the file where the member begins; in an uncompressed file, where the chunk begins"""
    data: bytes
    first: bool
    """the first chunk of its member, or of an uncompressed file"""


@dataclass(frozen=True, slots=True)
class Damage:
    """The member that begins at byte `offset` of the file cannot be decompressed to its end."""

    offset: int
    reason: str
    lost: int
    """bytes of the file from the damage to the next member that is read, or to the end"""


def unpack(file: ResumableFile, resume_at: bytes = b"") -> Iterator[Chunk | Damage]:
    """Read a file, and decompress it if it begins with the magic number of gzip or Zstandard.

    After damage, reading resumes at the next member whose content begins with `resume_at`, if there is one.
    Without `resume_at` all data before the damage is returned, even if a checksum then shows it to be wrong.
    """
    head = file.read(_READ_BYTES) or b""
    if head.startswith(_GZIP):
        return _members(file, head, _Gzip, _GZIP, "gzip member", resume_at)
    if head.startswith(_ZSTD) or _skippable(head):
        dictionary, position = _dictionary(file)

        def frame() -> _Zstd:
            return _Zstd(dictionary)

        return _members(file, b"", frame, _ZSTD, "Zstandard frame", resume_at, position)
    return _uncompressed(file, head)


def is_compressed(file: ResumableFile) -> bool:
    """Return whether `unpack` decompresses this file. The position is at the start afterwards."""
    head = file.read(8) or b""
    file.seek(0)
    return head.startswith((_GZIP, _ZSTD)) or _skippable(head)


class UnpackedFile(io.RawIOBase):
    """The decompressed file as one stream. At damage the stream ends, and `damage` is set."""

    def __init__(self, file: ResumableFile) -> None:
        super().__init__()
        self.damage: Damage | None = None
        self._file, self._chunks, self._rest = file, unpack(file), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self.damage is None:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            if isinstance(chunk, Damage):
                self.damage = chunk
            else:
                self._rest = memoryview(chunk.data)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


class _Decompressor(Protocol):
    """Decompress one gzip member or Zstandard frame, step by step."""

    @property
    def done(self) -> bool: ...

    def step(self, compressed: bytes) -> tuple[bytes, bytes]:
        """Return decompressed bytes, and the compressed bytes that were not used."""


class _Gzip:
    def __init__(self) -> None:
        self._state = zlib.decompressobj(31)

    @property
    def done(self) -> bool:
        return self._state.eof

    def step(self, compressed: bytes) -> tuple[bytes, bytes]:
        data = self._state.decompress(compressed, _CHUNK_BYTES)
        return data, self._state.unused_data if self.done else self._state.unconsumed_tail


class _Zstd:
    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None) -> None:
        unpacker = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_ZSTD_WINDOW)
        self._state = unpacker.decompressobj()

    @property
    def done(self) -> bool:
        return bool(self._state.eof)

    def step(self, compressed: bytes) -> tuple[bytes, bytes]:
        # The library has no limit on its output, so the input is small.
        head, rest = compressed[: 1 << 13], compressed[1 << 13 :]
        data = self._state.decompress(head)
        return data, self._state.unused_data + rest if self.done else rest


def _uncompressed(file: ResumableFile, data: bytes) -> Iterator[Chunk | Damage]:
    position = 0
    while data:
        yield Chunk(position, data, first=position == 0)
        position += len(data)
        data = file.read(_CHUNK_BYTES) or b""


def _members(
    file: ResumableFile,
    compressed: bytes,
    start: Callable[[], _Decompressor],
    magic: bytes,
    name: str,
    resume_at: bytes,
    position: int = 0,
) -> Iterator[Chunk | Damage]:
    """Decompress all members. `compressed` has the bytes that were read from byte `position` of the file."""
    while True:
        compressed = compressed or file.read(_READ_BYTES) or b""
        if not compressed:
            return
        if magic == _GZIP and compressed[0] == 0:  # padding, which gzip allows between members
            position, compressed = position + 1, compressed[1:]
            continue
        begin, first, problem, pending, truncated = position, True, "", b"", False
        sent, known = 0, begin  # bytes of its content, and where the last step began that gave some
        try:
            member = start()  # raises if the dictionary is damaged
            while not member.done and not problem:
                compressed = compressed or file.read(_READ_BYTES) or b""
                if not compressed:
                    problem = f"the file ends inside the {name} that begins at byte {begin:,}"
                    truncated = True
                    break
                data, rest = member.step(compressed)
                if data:
                    sent, known = sent + len(data), position
                position, compressed = position + len(compressed) - len(rest), rest
                data, pending = pending + data, b""
                if first and len(data) < len(resume_at) and not member.done:
                    pending = data  # the first chunk must show whether the member begins a record
                elif data:
                    yield Chunk(begin, data, first)
                    first = False
        except (zlib.error, zstandard.ZstdError) as error:
            problem = f"the {name} that begins at byte {begin:,} is damaged ({error})"
        if problem and not resume_at:
            read = begin
            for data, end in _data_before_damage(file, begin, known, sent, start):
                read = end
                if data:
                    yield Chunk(begin, data, first)
                    first = False
            yield Damage(begin, problem, max(file.size() - read, 0))
            return
        if problem:
            next_member = _find_member(file, begin + 1, start, magic, resume_at)
            if next_member is not None and truncated:  # other members follow, so the file is not truncated
                problem = f"the {name} that begins at byte {begin:,} is damaged (it has no end)"
            resumed = file.size() if next_member is None else next_member[0]
            yield Damage(begin, problem, max(resumed - position, 0))
            if next_member is None:
                return
            position, compressed = next_member


def _data_before_damage(
    file: ResumableFile, begin: int, known: int, sent: int, start: Callable[[], _Decompressor]
) -> Iterator[tuple[bytes, int]]:
    """Decompress a damaged member again, byte by byte from byte `known` of the file on.

    A decompressor that raises an error returns no data, although it may have read much before. Yields what
    follows the first `sent` bytes of the content, and with it the byte of the file up to which it was read.
    """
    position = begin
    file.seek(begin)
    try:
        member = start()
        while piece := file.read(min(known - position, _READ_BYTES) if position < known else _READ_BYTES):
            size = len(piece) if position < known else 1
            for index in range(0, len(piece), size):
                rest = piece[index : index + size]
                position += len(rest)
                while rest and not member.done:
                    data, rest = member.step(rest)
                    if data:
                        yield data[sent:], position - len(rest)
                    sent = max(sent - len(data), 0)
    except (zlib.error, zstandard.ZstdError):
        return


def _find_member(
    file: ResumableFile, position: int, start: Callable[[], _Decompressor], magic: bytes, resume_at: bytes
) -> tuple[int, bytes] | None:
    """Find the next member from byte `position` on whose content begins with `resume_at`.

    Returns its offset and the bytes read from there, or None.
    """
    window, probe_bytes = b"", 1 << 10
    file.seek(position)
    while data := file.read(_READ_BYTES):
        window += data
        is_last = len(data) < _READ_BYTES
        index = window.find(magic)
        while index >= 0 and (is_last or index + probe_bytes <= len(window)):
            try:
                if start().step(window[index : index + probe_bytes])[0].startswith(resume_at):
                    return position + index, window[index:]
            except (zlib.error, zstandard.ZstdError):
                pass
            index = window.find(magic, index + 1)
        kept = min(len(window), probe_bytes)
        position, window = position + len(window) - kept, window[len(window) - kept :]
    return None


def _skippable(head: bytes) -> bool:
    return len(head) >= 8 and struct.unpack("<I", head[:4])[0] in _SKIPPABLE


def _dictionary(file: ResumableFile) -> tuple[zstandard.ZstdCompressionDict | None, int]:
    """Return the dictionary at the start of a .warc.zst, and the byte after all its first skippable frames.

    Source: https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    position, dictionary = 0, None
    file.seek(0)
    while _skippable(head := file.read(8) or b""):
        kind, size = struct.unpack("<II", head)
        if kind == _DICTIONARY and dictionary is None and size <= _CHUNK_BYTES << 10:
            content = file.read(size) or b""
            try:
                if content.startswith(_ZSTD):
                    content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
                dictionary = zstandard.ZstdCompressionDict(content)
            except (zstandard.ZstdError, ValueError):
                dictionary = None  # frames that need it are reported as damaged
        position += 8 + size
        file.seek(position)
    file.seek(position)
    return dictionary, position
