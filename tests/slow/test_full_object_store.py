"""More rows than the object store holds go through ingest, score and pack: Ray spills, no byte changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from killed import ended, start
from ray_head import start_head
from transformers import AutoTokenizer

from safety_ray.core import dataset

pytestmark = pytest.mark.covers(
    "jobs.ingest", "jobs.score", "jobs.pack", "safety_ray.core", "safety_ray.pack"
)
STORE_MB = 80  # Ray's minimum is 79
DOCUMENTS, FILES, WORDS = 480, 4, 50_000


def test_stages_spill_rows_that_the_object_store_cannot_hold(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = np.array(["moss", "fern", "reed", "sage", "mint", "kelp", "rush", "teas"])
    texts = {f"d{n:03}": " ".join(random.choice(words, WORDS + n)) for n in range(DOCUMENTS)}
    assert sum(map(len, texts.values())) > STORE_MB * 1_000_000
    ids = sorted(texts)
    for n in range(FILES):
        rows = pa.table({"id": ids[n::FILES], "text": [texts[id] for id in ids[n::FILES]]})
        dataset.write_table(rows, str(tmp_path / "in" / f"{n}.parquet"))

    head = start_head(4, store_mb=STORE_MB)
    try:
        ended(start("store_job.py", head, tmp_path), tmp_path)
    finally:
        head.stop()
    assert (tmp_path / "spilled").read_text(), "nothing was spilled"
    print((tmp_path / "spilled").read_text())

    for stage in ("ingest", "score"):
        found = dataset.table(str(tmp_path / stage), ["id", "text"])
        assert found.column("id").to_pylist() == ids
        assert found.column("text").to_pylist() == [texts[id] for id in ids], stage
    tokens: dict[str, list[Any]] = {id: [] for id in ids}
    rows = dataset.table(str(tmp_path / "pack")).sort_by("row")
    for input_ids, spans in zip(rows.column("input_ids"), rows.column("spans").to_pylist(), strict=True):
        row = input_ids.values.to_numpy()
        for span in spans:
            tokens[span["id"]].append(row[span["start"] : span["start"] + span["length"]])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pack" / "tokenizer")
    for id in ids:
        assert tokenizer.decode(np.concatenate(tokens[id]), skip_special_tokens=True) == texts[id], id
