"""Errors of pyarrow that mean that a file is damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core.errors import UserError
from safety_ray.core.parquet import readable


@pytest.mark.parametrize("damage", ["shortened", "no beginning", "empty", "footer overwritten"])
def test_readable_reports_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [str(n) for n in range(100)]}), path)
    content = path.read_bytes()
    damaged = {
        "shortened": content[:40],
        "no beginning": content[-30:],
        "empty": b"",
        "footer overwritten": content[:-20] + b"\xff" * 12 + content[-8:],
    }
    path.write_bytes(damaged[damage])
    message = r"a\.parquet' is not a readable Parquet file: [^\n]*\.$"
    with pytest.raises(UserError, match=message), readable(str(path)):
        pq.read_table(path, partitioning=None)


def test_readable_keeps_errors_of_file_systems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), readable("a"):
        pq.read_table(tmp_path / "a.parquet", partitioning=None)
    with pytest.raises(ConnectionResetError), readable("a"):
        raise ConnectionResetError("the server closed the connection")
