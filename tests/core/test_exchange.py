"""Exchanges bring the rows of a key together, and no other module exchanges rows."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from safety_ray.core import exchange

ROOT = Path(__file__).parents[2]
EXCHANGES = ("groupby", "map_groups", "random_shuffle", "randomize_block_order")
"""methods of Ray Data's datasets that exchange rows, and that no other class of the project has"""
STRATEGY = ("shuffle_strategy", "ShuffleStrategy")


def blocks_of(rows: Any, column: str) -> list[list[Any]]:
    """Return the values of `column` in each block that has rows."""
    tables = rows.map_batches(lambda batch: batch, batch_format="pyarrow", batch_size=None).to_arrow_refs()
    import ray

    return [block.column(column).to_pylist() for block in ray.get(tables) if len(block)]


@pytest.mark.parametrize("key", ["number", "text", "place"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_exchange_by_key_brings_rows_of_key_together(key: str, blocks: int, ray_cluster: None) -> None:
    import ray.data

    rows = pa.table(
        {
            "number": pa.array([(n % 10 - 5) * 2**60 for n in range(200)], pa.int64()),
            "text": [f"ü{n % 11}" for n in range(200)],
            "place": pa.array([n % 3 for n in range(200)], pa.int32()),
        }
    )
    parts = [rows.slice(first, 40) for first in range(0, 200, 40)]
    exchanged = exchange.by_key(ray.data.from_arrow([*parts, rows.slice(0, 0)]), key, blocks, inputs=6)
    assert exchanged.columns() == rows.column_names
    found = blocks_of(exchanged, key)
    assert sorted(value for block in found for value in block) == sorted(rows.column(key).to_pylist())
    values = [set(block) for block in found]
    assert len(set().union(*values)) == sum(map(len, values)), "no value is in two blocks"
    if key == "place" and blocks == 3:
        assert values == [{0}, {1}, {2}]


def test_exchange_of_empty_dataset_is_empty(ray_cluster: None) -> None:
    import ray.data

    rows = ray.data.from_arrow([pa.table({"number": pa.array([], pa.int64())})] * 2)
    assert exchange.by_key(rows, "number", 3, inputs=2).count() == 0


def test_cluster_start_makes_keyed_repartition_of_ray_fail(ray_cluster: None) -> None:
    import ray.data

    rows = ray.data.from_arrow([pa.table({"number": [1, 2]})] * 2)
    with pytest.raises(ValueError, match="Key-based repartitioning only supported"):
        rows.repartition(2, keys=["number"]).materialize()


def test_source_exchanges_rows_only_in_exchange_module() -> None:
    found = []
    for floor in ("safety_ray", "jobs", "serve"):
        for path in (ROOT / floor).rglob("*.py"):
            if path != ROOT / "safety_ray/core/exchange.py":
                found += [f"{path.relative_to(ROOT)}: {name}" for name in exchanges_in(path.read_text())]
    assert found == [], "call exchange.by_key, which survives the loss of a node"
    own = exchanges_in((ROOT / "safety_ray/core/exchange.py").read_text())
    assert {"repartition(keys)", *STRATEGY} <= set(own), "the search finds what it looks for"


def exchanges_in(source: str) -> list[str]:
    """Return what exchanges rows of a dataset, or changes how that is done, in Python source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [
            *([node.attr] if isinstance(node, ast.Attribute) else []),
            *([node.name] if isinstance(node, ast.alias) else []),
        ]
        found += [name for name in names if name in (*EXCHANGES, *STRATEGY)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            words = {word.arg for word in node.keywords}
            if node.func.attr == "repartition":
                found += [f"repartition({word})" for word in ("keys", "shuffle", "sort") if word in words]
            if node.func.attr == "join" and "join_type" in words:
                found.append("join")
            if node.func.attr == "sort" and "boundaries" in words:
                found.append("sort")
    return found
