"""The search for equal texts in blocks that a shuffle makes, as for a corpus of many blocks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from safety_ray.core import dataset, digests
from safety_ray.pack.lookups import find_copies
from safety_ray.pack.settings import PackConfig

pytestmark = pytest.mark.covers("jobs.pack", "safety_ray.pack", "safety_ray.core.digests")


@pytest.mark.parametrize("blocks", [1, 4])
def test_pack_stage_finds_copies_in_any_number_of_blocks(
    tmp_path: Path, ray_cluster: None, blocks: int
) -> None:
    texts = {f"d{n}": f"text {n % 40}" for n in range(100)}  # two or three documents of each text
    ids = list(texts)
    table = pa.table({"id": ids, "text": list(texts.values()), "score": pa.array([0] * 100, pa.int8())})
    for number in range(3):
        part = table.filter(pa.array([n % 3 == number for n in range(100)]))
        dataset.write_table(part, str(tmp_path / "scored" / f"{number}.parquet"))
    config = PackConfig(scored=str(tmp_path / "scored"), output=str(tmp_path / "out"), row_length=64)
    documents = (blocks - 1) * digests.ROWS_PER_BLOCK + 1  # a corpus of so many has so many blocks
    found, _ = find_copies(config, 0.0, documents).get().find(pa.array(ids))
    kept = [text for (_, text), copy in zip(texts.items(), found, strict=True) if not copy]
    assert sorted(kept) == sorted(set(texts.values()))
