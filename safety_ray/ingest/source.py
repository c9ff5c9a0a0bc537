"""A file's bytes as they lie there, on any filesystem; a connection that breaks is made again."""

from __future__ import annotations

import io
import time
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError

WAITS = (1.0, 4.0, 16.0)
"""Seconds before each new try to read on; after the last the job fails rather than lose what follows."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)


class Source(io.RawIOBase):
    """The file at `path` as a seekable binary stream.

    What goes wrong on the way (a timeout, a connection cut short) is never taken for the end of
    the file: it is tried again, and then is a UserError.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self._at = path, 0
        self._fs, self._root = filesystem.find(path)
        self._file: Any = None
        self._file_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            size = self._fs.size(self._root)
            if size is None:
                raise OSError("the server does not tell how long the file is")
            offset += int(size)
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        for wait in (*WAITS, None):
            try:
                data = self._read(size)
                break
            except Exception as error:
                self._drop()
                if wait is None or isinstance(error, _FINAL):
                    what = f"{type(error).__name__}: {error}".rstrip(". ")
                    raise UserError(
                        f"'{self.path}' cannot be read beyond byte {self._at:,} ({what}); "
                        "start again when it can be reached."
                    ) from error
                time.sleep(wait)
        buffer[: len(data)] = data
        self._at += len(data)
        self._file_at = self._at
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        if self._file is None:
            self._file, self._file_at = self._fs.open(self._root, "rb"), 0
        if self._file_at != self._at:
            self._move()
        data: bytes = self._file.read(size)
        whole = getattr(self._file, "size", None)
        if size and not data and isinstance(whole, int) and self._at < whole:
            raise EOFError(f"{whole:,} bytes were announced")
        return data

    def _move(self) -> None:
        """Bring the file to the position, by reading up to it where a server knows no ranges."""
        try:
            self._file.seek(self._at)
        except (ValueError, io.UnsupportedOperation):
            self._file.close()
            self._file = self._fs.open(self._root, "rb")
            left = self._at
            while left:
                part = self._file.read(min(left, 1 << 20))
                if not part:
                    raise EOFError(f"byte {self._at:,} is beyond the end") from None
                left -= len(part)

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:  # the connection is broken already, and that was said
                return
