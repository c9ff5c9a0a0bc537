"""Rows whose encoding ends the worker process; the slow tests kill workers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from local_watch import LocalWatch

from safety_ray.core.dataset import REASON
from safety_ray.core.tag import TAG
from safety_ray.pack.encode import encode_rows, encode_watched
from safety_ray.pack.selection import SELECTED
from safety_ray.pack.vocabulary import tables


def test_encode_watched_rejects_only_the_row_that_died_alone(tokenizer: Any) -> None:
    rows = pa.Table.from_pylist(
        [{"id": f"d{n}", "text": f"the river {n}", "recipe": "raw", "use": "train"} for n in range(3)],
        SELECTED,
    )
    settings = {"vocabulary": tables(tokenizer, TAG, "the tokenizer"), "seed": 0, "tag_rate": 0.0}
    watch = LocalWatch()
    expected = encode_rows(rows, **settings)
    assert encode_watched(rows, watch, **settings).equals(expected)
    watch.die("batch of 3 from d0", 2)
    watch.die("row d1", 2)
    encoded = encode_watched(rows, watch, **settings)
    assert encoded.schema == expected.schema
    first, deadly, last = encoded.to_pylist()
    assert [first, last] == [expected.to_pylist()[n] for n in (0, 2)]
    assert "ended the worker process 2 times" in deadly[REASON]
    assert (deadly["text"], deadly["input_ids"], deadly["tokens"]) == ("the river 1", None, 0)
