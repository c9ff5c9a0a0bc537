"""Held-out documents compared with sets and sorted lists of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core.records import stable_hash
from safety_ray.pack import heldout
from safety_ray.pack.heldout import held_out, held_out_by_hash


def web(count: int, share: float = 0.5) -> pa.Table:
    """Return documents, of which a column `split` holds out the first ones."""
    split = ["heldout" if n < share * count else "train" for n in range(count)]
    return pa.table({"id": [f"d{n}" for n in range(count)], "split": split})


def test_held_out_by_hash_meets_share() -> None:
    found = [held_out_by_hash(3, 0.05, f"d{n}") for n in range(20_000)]
    assert 845 < sum(found) < 1155
    assert not any(held_out_by_hash(3, 0.0, f"d{n}") for n in range(100))
    assert all(held_out_by_hash(3, 1.0, f"d{n}") for n in range(100))
    assert found[5] == (stable_hash(3, "heldout", "d5") / 2**64 < 0.05)


def test_held_out_by_split_column_or_by_hash() -> None:
    batch = pa.table({"id": ["a", "b", "c"]})
    batch = batch.append_column("split", pa.array(["heldout", None, "train"]).dictionary_encode())
    assert held_out(batch, 0, None).to_pylist() == [True, False, False]
    assert held_out(batch, 0, 1.0).to_pylist() == [True, True, True]


def test_share_of_limits_number_of_documents() -> None:
    assert heldout.share_of(0.05, 50_000, 1000) == 0.05
    assert heldout.share_of(0.05, 50_000, 10**9) == pytest.approx(5e-5)
    assert heldout.share_of(0.05, 50_000, 0) == 0.05


def test_held_out_hashes_contain_documents_of_split() -> None:
    table = web(900)
    parts = [heldout.hashes_of(table.slice(start, 40), 4) for start in range(0, 900, 40)]
    hashes = heldout.sort_hashes(parts[::-1])
    assert hashes.tolist() == sorted(stable_hash(4, "heldout", f"d{n}") for n in range(450))
    ids: list[str | None] = [f"d{n}" for n in range(440, 470)]
    assert heldout.contains(hashes, 4, [*ids, None]) == [n < 450 for n in range(440, 470)] + [False]
    assert heldout.contains(np.empty(0, np.uint64), 4, ids) == [False] * 30


def test_held_out_documents_written_are_those_of_lowest_hash(tmp_path: Path) -> None:
    table = web(100)
    hashes = heldout.sort_hashes([heldout.hashes_of(table, 0)])
    for maximum, expected in ((8, 8), (50, 50), (90, 50)):
        highest = heldout.highest_written(hashes, maximum)
        blocks = [heldout.only_held_out(table.slice(n, 30), 0, None, highest) for n in range(0, 100, 30)]
        path = tmp_path / f"{maximum}.parquet"
        heldout.write(str(path), table.schema, blocks[::-1])
        lowest = sorted((f"d{n}" for n in range(50)), key=lambda i: stable_hash(0, "heldout", i))
        assert pq.read_table(path).column("id").to_pylist() == sorted(lowest[:expected])
    heldout.write(str(tmp_path / "none.parquet"), table.schema, [])
    assert pq.read_table(tmp_path / "none.parquet").schema.equals(table.schema)
