"""The records of a WARC or WET file: every one whole, rejected with its offset, or counted.

FastWARC reads the records. It stops at the first one that does not fit and takes a file that was
cut off for one that ends; so each record is checked against what lies in the file where nothing
valid follows it, and reading goes on with the next one that can be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastwarc.warc import ArchiveIterator, WarcRecord

from safety_ray.ingest.source import Source
from safety_ray.ingest.unpack import Break, Piece, is_packed, pieces

_BEGIN = b"WARC/"
_LINE = b"\nWARC/1."
READ = ("response", "resource", "conversion")
"""Record types that hold a document; all others are counted and passed over."""


@dataclass(slots=True)
class Record:
    """One record of an archive, or (without a type) a stretch in which none can be read."""

    offset: int
    """byte in the file: of the record, or of the gzip member or Zstandard frame that it begins in"""
    inner: int = 0
    """byte in the unpacked member, where the record is not the member's first"""
    type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """WARC headers, names in lower case"""
    status: int | None = None
    http: dict[str, str] = field(default_factory=dict)
    """HTTP headers of a response, names in lower case"""
    body: bytes = b""
    """as stored; of a response without its HTTP header"""
    problem: str | None = None
    """why it cannot be used"""


def records(source: Source, max_bytes: int, ignored: Counter[str]) -> Iterator[Record]:
    """The records of an archive in order; those that hold no document are counted in `ignored`.

    Records of more than `max_bytes` are passed over in the stream and have a problem, as have
    damaged ones; memory is bounded by about three times `max_bytes`.
    """
    tape = _Tape(source, max_bytes)
    while tape.open_section():
        for record in _section(tape, max_bytes):
            if record.problem is None and record.type not in (*READ, "warcinfo"):
                ignored[record.type] += 1
            else:
                yield record
        broken = tape.close_section()
        if broken is not None:
            yield Record(broken.offset, problem=f"the archive breaks off: {broken.reason}")


def _section(tape: _Tape, max_bytes: int) -> Iterator[Record]:
    """One pass of the loop reads records until one does not fit, and looks for the next after it."""
    while True:
        held: Record | None = None
        failure = ""
        begin = tape.at
        try:
            for found in ArchiveIterator(tape, parse_http=False, stream_detect=False):  # type: ignore[arg-type]
                if held is not None:
                    yield held
                tape.begin_record(found.stream_pos)
                held = _take(found, tape, max_bytes)
        except (OSError, ValueError) as error:
            failure = str(error)
        end = begin
        if held is not None:
            wrong, end = tape.check(held)
            held.problem = wrong or held.problem
            yield held
            if wrong:
                failure = failure or wrong
            elif failure:
                yield Record(*tape.place(end), problem=f"no WARC record begins here ({failure})")
        elif failure:
            yield Record(*tape.place(begin), problem=f"no WARC record begins here ({failure})")
        if not failure or not tape.seek_record(end):
            return


def _take(found: WarcRecord, tape: _Tape, max_bytes: int) -> Record:
    headers = {name.lower(): value for name, value in found.headers.items()}
    kind = headers.get("warc-type", "unknown").lower()
    record = Record(*tape.place(found.stream_pos), kind, headers)
    if record.type not in (*READ, "warcinfo"):
        return record
    if found.content_length > max_bytes:
        record.problem = f"the record is longer than max_bytes={max_bytes}"
        return record
    if record.type == "response" and found.is_http:
        try:
            found.parse_http()
        except (OSError, ValueError) as error:
            record.problem = f"the HTTP header cannot be read ({error})"
            return record
        record.http = {name.lower(): value for name, value in found.http_headers.items()}
        record.status = found.http_headers.status_code
    record.body = found.reader.read()
    return record


class _Tape:
    """The unpacked archive in sections, each of which begins with a record.

    A section is a member that begins with a record and those that do not after it; a plain file is
    one. It ends where the packing breaks. What was read since a record began is kept for a second
    look, but never much more than the last `max_bytes`.
    """

    def __init__(self, source: Source, max_bytes: int) -> None:
        self.at = 0
        """bytes of the section that were read"""
        self._packed = is_packed(source)
        self._pieces = pieces(source, resume_at=_BEGIN)
        self._next: Piece | Break | None = next(self._pieces, None)
        self._offset, self._fresh, self._ahead = 0, True, b""
        self._kept, self._kept_from, self._most = bytearray(), 0, max_bytes + (1 << 18)
        self._body: int | None = None  # where the body of the present record begins

    def open_section(self) -> bool:
        if self._next is None:
            return False
        self._offset, self._fresh = self._next.offset, True
        self._rewind(0)
        return True

    def close_section(self) -> Break | None:
        """Pass over what is left of the section; returns how it broke, if it did."""
        while self.read(1 << 16):
            pass
        broken = self._next
        if isinstance(broken, Break):
            self._next = next(self._pieces, None)
            return broken
        return None

    def tell(self) -> int:
        return self.at

    def read(self, size: int) -> bytes:
        if not self._ahead:
            piece = self._next
            ended = isinstance(piece, Piece) and piece.first and piece.data.startswith(_BEGIN)
            if not isinstance(piece, Piece) or (ended and not self._fresh):
                return b""
            self._fresh, self._ahead, self._next = False, piece.data, next(self._pieces, None)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        self.at += len(data)
        self._kept += data
        if (excess := len(self._kept) - self._most) > 0:
            self._forget(excess)
        return data

    def place(self, at: int) -> tuple[int, int]:
        """Offset in the file, and in the member, of byte `at` of the section."""
        return (self._offset, at) if self._packed else (at, 0)

    def begin_record(self, at: int) -> None:
        """FastWARC has read the header of the record that begins at byte `at`."""
        self._forget(at - self._kept_from)
        head = self._kept.find(b"\r\n\r\n")
        self._body = at + head + 4 if head >= 0 else None

    def check(self, record: Record) -> tuple[str | None, int]:
        """What is wrong with the record that was begun last, and where its end or (if wrong) its body is."""
        if self._body is None:
            return "the record breaks off in its header", self._kept_from + 1
        length = record.headers.get("content-length", "").strip()
        if not (length.isascii() and length.isdigit()):
            return f"the record's Content-Length is no number but '{length}'", self._body
        end, there = self._body + int(length), self.at - self._body
        if there < int(length):
            return f"the record breaks off: {there:,} of its {int(length):,} bytes are there", self._body
        rest = bytes(self._kept[max(0, end - self._kept_from) :])
        if rest.startswith(b"\r\n\r\n") or not rest.strip(b"\r\n"):
            return None, end
        return f"the record goes on after the {length} bytes of its Content-Length", self._body

    def seek_record(self, at: int) -> bool:
        """Go to the next line from byte `at` on that begins a record; False where the section has none."""
        window = bytes(self._kept[max(0, at - self._kept_from) :])
        while (place := window.find(_LINE)) < 0:
            more = self.read(1 << 16)
            if not more:
                return False
            window = window[-len(_LINE) :] + more
        self._ahead = window[place + 1 :] + self._ahead
        self._rewind(self.at - (len(window) - place - 1))
        return True

    def _forget(self, size: int) -> None:
        del self._kept[:size]
        self._kept_from += size

    def _rewind(self, at: int) -> None:
        self.at = self._kept_from = at
        self._kept.clear()
        self._body = None
