"""Read the records of a WARC or WET file. Each is complete, rejected with its offset, or counted.

FastWARC reads the records. It stops at the first invalid record, and takes a truncated file for a complete
one. So a record that is not followed by a valid one is checked against the bytes of the file, and reading
resumes at the next record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastwarc.warc import ArchiveIterator, WarcRecord

from safety_ray.ingest import http_head
from safety_ray.ingest.resumable_file import ResumableFile
from safety_ray.ingest.unpack import Chunk, Damage, is_compressed, unpack

_BEGIN = b"WARC/"
_LINE = b"\nWARC/1."
_METADATA = "metadata://"  # resource records of wget's log, arguments and manifest
READ = ("response", "resource", "conversion")
"""Record types with a document. All others are counted and skipped."""


@dataclass(slots=True)
class Record:
    """One record of an archive, or (without a type) a span in which no record can be read."""

    offset: int
    """byte in the file where the record, or the gzip member or Zstandard frame with it, begins"""
    inner: int = 0
    """byte in the decompressed member; 0 for the member's first record"""
    type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """WARC headers, names in lower case"""
    status: int | None = None
    http: dict[str, str] = field(default_factory=dict)
    """HTTP headers of a response, names in lower case"""
    body: bytes = b""
    """the stored body; that of a response has no HTTP header"""
    problem: str | None = None
    """reason why the record cannot be used"""
    lost: int = 0
    """bytes of the file after the problem in which no record can be read"""


def read_records(file: ResumableFile, max_bytes: int, ignored: Counter[str]) -> Iterator[Record]:
    """Read the records of an archive in order, and count those without a document in `ignored`.

    Damaged records and records of more than `max_bytes` have a problem. Memory is limited to about three
    times `max_bytes`.
    """
    stream = _SectionStream(file, max_bytes)
    while stream.open_section():
        for record in _read_section(stream, max_bytes):
            if record.problem is None and record.type not in (*READ, "warcinfo"):
                ignored[record.type] += 1
            else:
                yield record
        damage = stream.close_section()
        if damage is not None:
            yield Record(damage.offset, problem=f"the file is damaged: {damage.reason}", lost=damage.lost)


def _read_section(stream: _SectionStream, max_bytes: int) -> Iterator[Record]:
    """Read records until one is invalid, then resume at the next record, until the section ends."""
    while True:
        last: Record | None = None
        failure = ""
        start = stream.position
        try:
            for warc_record in ArchiveIterator(stream, parse_http=False, stream_detect=False):  # type: ignore[arg-type]
                if last is not None:
                    yield last
                stream.begin_record(warc_record.stream_pos)
                last = _convert(warc_record, stream, max_bytes)
        except (OSError, ValueError) as error:
            failure = str(error)
        end = start
        if last is not None:
            problem, end = stream.check_record(last)
            last.problem = problem or last.problem
            if problem:
                failure = failure or problem
            else:
                if last.inner == 0:  # its member has no other record, so the damage is in this one
                    last.problem = last.problem or stream.wrong_checksum()
                yield last
                last = None
        if not failure:
            return
        invalid = last or Record(*stream.location(end), problem=f"no WARC record begins here ({failure})")
        more = stream.seek_record(end)
        invalid.lost = stream.lost_since(end)
        yield invalid
        if not more:
            return


def _convert(warc_record: WarcRecord, stream: _SectionStream, max_bytes: int) -> Record:
    headers = {name.lower(): value for name, value in warc_record.headers.items()}
    kind = headers.get("warc-type", "unknown").lower()
    if kind == "resource" and headers.get("warc-target-uri", "").lstrip("<").startswith(_METADATA):
        kind = "metadata"
    record = Record(*stream.location(warc_record.stream_pos), kind, headers)
    if record.type not in (*READ, "warcinfo"):
        return record
    if warc_record.content_length > max_bytes:
        record.problem = f"the record is longer than max_bytes={max_bytes}"
        return record
    record.body = warc_record.reader.read()
    if record.type == "response" and warc_record.is_http:
        try:
            record.status, record.http, record.body = http_head.split(record.body)
        except ValueError as error:
            record.problem = f"the HTTP header cannot be read ({error})"
    return record


class _SectionStream:
    """The decompressed archive as a stream of sections, each of which begins with a record.

    A section is a member that begins with a record, and the following members that do not. An uncompressed
    file is one section. A section ends at damage. The bytes since the beginning of the current record are
    kept for checks, but not much more than the last `max_bytes`.
    """

    def __init__(self, file: ResumableFile, max_bytes: int) -> None:
        self.position = 0
        """number of bytes of the section that were read"""
        self._compressed = is_compressed(file)
        self._chunks = unpack(file, resume_at=_BEGIN)
        self._next: Chunk | Damage | None = next(self._chunks, None)
        self._offset, self._at_start, self._unread = 0, True, b""
        self._kept, self._kept_from, self._max_kept = bytearray(), 0, max_bytes + (1 << 18)
        self._body: int | None = None  # position of the current record's body

    def open_section(self) -> bool:
        """Begin the next section. Returns False at the end of the file."""
        if self._next is None:
            return False
        self._offset, self._at_start = self._next.offset, True
        self._rewind(0)
        return True

    def wrong_checksum(self) -> str | None:
        """Return the problem of a section that has been read to its end, if only its checksum is wrong."""
        damage = self._next
        if self._unread or not isinstance(damage, Damage) or damage.offset != self._offset:
            return None
        return f"the record is damaged: {damage.reason}" if "incorrect data check" in damage.reason else None

    def close_section(self) -> Damage | None:
        """Skip the rest of the section. Returns the damage that ends it, if any."""
        while self.read(1 << 16):
            pass
        damage = self._next
        if isinstance(damage, Damage):
            self._next = next(self._chunks, None)
            return damage
        return None

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        if not self._unread:
            chunk = self._next
            begins = isinstance(chunk, Chunk) and chunk.first and chunk.data.startswith(_BEGIN)
            if not isinstance(chunk, Chunk) or (begins and not self._at_start):
                return b""
            self._at_start, self._unread, self._next = False, chunk.data, next(self._chunks, None)
        data, self._unread = self._unread[:size], self._unread[size:]
        self.position += len(data)
        self._kept += data
        if (excess := len(self._kept) - self._max_kept) > 0:
            self._forget(excess)
        return data

    def location(self, position: int) -> tuple[int, int]:
        """Return the offset in the file, and in the member, of a position in the section."""
        return (self._offset, position) if self._compressed else (position, 0)

    def begin_record(self, position: int) -> None:
        """Note that FastWARC has read the header of the record that begins at `position`."""
        self._forget(position - self._kept_from)
        header = self._kept.find(b"\r\n\r\n")
        self._body = position + header + 4 if header >= 0 else None

    def check_record(self, record: Record) -> tuple[str | None, int]:
        """Return the problem of the current record, and the position of its end or (if invalid) body."""
        if self._body is None:
            return "the record is truncated in its header", self._kept_from + 1
        length = record.headers.get("content-length", "").strip()
        if not (length.isascii() and length.isdigit()):
            return f"the record's Content-Length is not a number but '{length}'", self._body
        end, available = self._body + int(length), self.position - self._body
        if available < int(length):
            return f"the record is truncated: it has {available:,} of its {int(length):,} bytes", self._body
        rest = bytes(self._kept[max(0, end - self._kept_from) :])
        if rest.startswith(b"\r\n\r\n") or not rest.strip(b"\r\n"):
            return None, end
        return f"the record is longer than the {length} bytes of its Content-Length", self._body

    def seek_record(self, position: int) -> bool:
        """Seek the next line from `position` on that begins a record. Returns False if there is none."""
        window = bytes(self._kept[max(0, position - self._kept_from) :])
        while (index := window.find(_LINE)) < 0:
            data = self.read(1 << 16)
            if not data:
                return False
            window = window[-len(_LINE) :] + data
        self._unread = window[index + 1 :] + self._unread
        self._rewind(self.position - (len(window) - index - 1))
        return True

    def lost_since(self, position: int) -> int:
        """Return the bytes of the file from a position in the section to the present one.

        0 for a compressed file: the bytes of its members have been read.
        """
        return 0 if self._compressed else max(self.position - position, 0)

    def _forget(self, size: int) -> None:
        del self._kept[:size]
        self._kept_from += size

    def _rewind(self, position: int) -> None:
        self.position = self._kept_from = position
        self._kept.clear()
        self._body = None
