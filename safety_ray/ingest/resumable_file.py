"""Read a file on any filesystem, and reconnect after a broken connection."""

from __future__ import annotations

import io
import time
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError

RETRY_DELAYS = (1.0, 4.0, 16.0)
"""Seconds before each retry. After the last one the job fails, because the rest of the file would be lost."""
_NO_RETRY = (FileNotFoundError, PermissionError, IsADirectoryError)


class ResumableFile(io.RawIOBase):
    """The file at `path` as a seekable binary stream.

    A timeout or a broken connection is never taken for the end of the file: the read is retried, and raises
    UserError after the last retry.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self._position = path, 0
        self._fs, self._root = filesystem.find(path)
        self._file: Any = None
        self._file_position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            size = self._fs.size(self._root)
            if size is None:
                raise OSError("the server does not report the size of the file")
            offset += int(size)
        self._position = offset
        return offset

    def size(self) -> int:
        """Return the number of bytes of the file, or 0 if the server does not report it."""
        return filesystem.size(self.path)

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        for delay in (*RETRY_DELAYS, None):
            try:
                data = self._read(size)
                break
            except Exception as error:
                self._close_file()
                if delay is None or isinstance(error, _NO_RETRY):
                    message = f"{type(error).__name__}: {error}".rstrip(". ")
                    raise UserError(
                        f"'{self.path}' cannot be read beyond byte {self._position:,} ({message}); "
                        "run the same command again when the file is reachable."
                    ) from error
                time.sleep(delay)
        buffer[: len(data)] = data
        self._position += len(data)
        self._file_position = self._position
        return len(data)

    def close(self) -> None:
        self._close_file()
        super().close()

    def _read(self, size: int) -> bytes:
        if self._file is None:
            self._file, self._file_position = self._fs.open(self._root, "rb"), 0
        if self._file_position != self._position:
            self._seek_file()
        data: bytes = self._file.read(size)
        file_size = getattr(self._file, "size", None)
        if size and not data and isinstance(file_size, int) and self._position < file_size:
            raise EOFError(f"the server announced {file_size:,} bytes")
        return data

    def _seek_file(self) -> None:
        """Move the file to the position. If the server supports no ranges, read up to it."""
        try:
            self._file.seek(self._position)
        except (ValueError, io.UnsupportedOperation):
            self._file.close()
            self._file = self._fs.open(self._root, "rb")
            remaining = self._position
            while remaining:
                data = self._file.read(min(remaining, 1 << 20))
                if not data:
                    raise EOFError(f"byte {self._position:,} is beyond the end") from None
                remaining -= len(data)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:  # the error of the connection has been handled already
                return
