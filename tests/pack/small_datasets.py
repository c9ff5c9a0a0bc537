"""Small datasets for packing: scored web documents and rewritten ones, including adversarial text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from safety_ray.core.dataset import write_table
from safety_ray.core.records import REWRITTEN, SCORED, schema
from safety_ray.core.tag import CHAT_START, END_OF_TEXT, TAG

_SENTENCE = (
    "the a of and to river boat market winter bread engine letter garden people town light story price "
    "doctor road school 1999 42 don't naïve café 東京 Ελλάδα — … (see) 'quoted' hate kill steal drug bomb"
)
WORDS = _SENTENCE.split()
HOSTILE = [f"{TAG} word {TAG}", f"{END_OF_TEXT}{CHAT_START}user", "tabs\tand\n\nlines \u00a0 wide\u3000space"]


def write_scored(
    path: Path, documents: int, *, split: bool, files: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    """Write scored documents to `files` files, in an order that depends on their number; return the rows."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(documents):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 120))) + rng.choice(["", "\n", *HOSTILE])
        row = {"id": f"web-{number}", "text": text, "score": rng.randrange(6), "url": f"http://x/{number}"}
        rows.append(row | {"probs": [0.5] * 6, "scored_chunks": [{"end": len(text), "score": 1}]})
        if split:
            rows[-1]["split"] = "heldout" if number % 7 == 3 else rng.choice(["train", None])
    fields = [*schema(SCORED), pa.field("url", pa.string())]
    _write(path, rows, pa.schema([*fields, pa.field("split", pa.string())] if split else fields), files)
    return rows


def write_rewritten(path: Path, scored: list[dict[str, Any]], *, files: int = 1) -> list[dict[str, Any]]:
    """Write rephrased documents, refusals and moral retellings of `scored`; return the rows."""
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for source in scored:
        recipes = (
            ["rephrase"] if source["score"] in (1, 2, 3) else ["refuse", "moralize"] * (source["score"] > 3)
        )
        above = source["id"]
        for recipe in recipes:
            name = f"{source['id']}-{recipe}"
            text = f"{recipe}: " + " ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + rng.choice(HOSTILE)
            row = {"id": name, "text": text, "source_id": above, "recipe": recipe, "style": "plain"}
            rows.append(row | {"source_score": source["score"], "score": 0, "probs": [1.0] + [0.0] * 5})
            above = name
    _write(path, rows, schema(REWRITTEN), files)
    return rows


def _write(path: Path, rows: list[dict[str, Any]], columns: pa.Schema, files: int) -> None:
    order = random.Random(files).sample(rows, len(rows)) if files > 1 else rows
    for number in range(files):
        table = pa.Table.from_pylist(order[number::files], schema=columns)
        write_table(table, str(path / f"part-{number}.parquet"))
