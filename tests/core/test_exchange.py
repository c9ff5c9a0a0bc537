"""Exchanges bring the rows of a key together, and no other module exchanges rows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from safety_ray.core import exchange

ROOT = Path(__file__).parents[2]
ROWS = 2000
EXCHANGES = ("groupby", "map_groups", "random_shuffle", "randomize_block_order")
"""methods of Ray Data's datasets that exchange rows, and that no other class of the project has"""
STRATEGY = ("shuffle_strategy", "ShuffleStrategy")


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Let Ray split what a task returns into blocks of 1,000 bytes instead of 128 MB."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before, context.target_max_block_size = context.target_max_block_size, 1000
    yield
    context.target_max_block_size = before


@pytest.mark.parametrize("max_parts", [exchange.MAX_PARTS, 1])
@pytest.mark.parametrize("key", ["number", "text", "place"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_exchange_by_key_brings_rows_of_key_together(
    blocks: int, key: str, max_parts: int, ray_cluster: None, small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import ray.data

    def as_row(block: pa.Table, column: str) -> pa.Table:
        return pa.table({"names": [block.column_names], "values": [block.column(column).to_pylist()]})

    monkeypatch.setattr(exchange, "MAX_PARTS", max_parts)
    rows = pa.table(
        {
            "number": pa.array([(n % 10 - 5) * 2**60 for n in range(ROWS)], pa.int64()),
            "text": [f"ü{n % 11}" for n in range(ROWS)],
            "place": pa.array([n % 3 for n in range(ROWS)], pa.int32()),
        }
    )
    parts = [rows.slice(first, ROWS // 5) for first in range(0, ROWS, ROWS // 5)]
    before = ray.data.from_arrow([*parts, rows.slice(0, 0)])
    found = exchange.by_key(before, key, blocks, as_row, inputs=6, column=key).take_all()
    assert all(list(row["names"]) == rows.column_names for row in found)
    values = [list(row["values"]) for row in found if len(row["values"])]
    assert sorted(value for block in values for value in block) == sorted(rows.column(key).to_pylist())
    assert 1 <= len(values) <= blocks, "a block is not split, whatever its size"
    assert sum(len(set(block)) for block in values) == len(set(rows.column(key).to_pylist()))
    if key == "place" and blocks == 3 and max_parts > 1:
        assert [set(block) for block in values] == [{0}, {1}, {2}]


def test_exchange_of_empty_dataset_is_empty(ray_cluster: None) -> None:
    import ray.data

    rows = ray.data.from_arrow([pa.table({"number": pa.array([], pa.int64())})] * 2)
    assert exchange.by_key(rows, "number", 3, lambda block: block, inputs=2).count() == 0


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
                found += ["repartition(shuffle)"] if len(node.args) > 1 else []
            if node.func.attr == "join" and "join_type" in words:
                found.append("join")
            if node.func.attr == "sort" and "boundaries" in words:
                found.append("sort")
    return found
