"""Write the shipped corpus: labelled documents generated from seeds, in FineWeb's schema.

<output>/data/       all documents
<output>/heldout/    the documents with split=heldout
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from safety_ray.core import artifact
from safety_ray.core.config import setting
from safety_ray.core.dataset import write_table
from safety_ray.core.errors import UserError
from safety_ray.core.records import FINEWEB, LABELLED, schema, stable_hash
from safety_ray.corpus.expand import expand
from safety_ray.corpus.seeds import Seed, load_seeds

_EXTRA = ("category", "kind", "family", "split")
SCHEMA = pa.schema([*schema((*LABELLED, *FINEWEB)), *((name, pa.string()) for name in _EXTRA)])


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """Write the corpus of the demo: labelled web-like documents generated from the shipped seeds."""

    output: str = setting("folder to write", identity=False)
    documents: int = setting("number of documents, spread evenly over the seed documents", default=4000)
    seed: int = setting("seed of the generator", default=0)

    def __post_init__(self) -> None:
        if self.documents < len(load_seeds()):
            raise UserError(
                f"documents={self.documents} must be at least {len(load_seeds())}, the number of seeds."
            )


def make_corpus(config: CorpusConfig) -> dict[str, Any]:
    """Write the corpus. Returns the record; a finished folder is skipped."""
    out = artifact.begin(config.output, config, inputs={})
    if out.record is not None:
        return out.record
    rows = documents(config.documents, config.seed)
    write_table(pa.Table.from_pylist(rows, SCHEMA), out.sub("data", "part-00000.parquet"))
    heldout = [row for row in rows if row["split"] == "heldout"]
    write_table(pa.Table.from_pylist(heldout, SCHEMA), out.sub("heldout", "heldout.parquet"))
    return out.commit(rows_in=len(rows), rows_out=len(rows), seeds=len(load_seeds()))


def documents(total: int, seed: int) -> list[dict[str, Any]]:
    """Return up to `total` distinct documents, ordered by id; a seed with few slots gives fewer."""
    seeds = load_seeds()
    rows: list[dict[str, Any]] = []
    for index, document_seed in enumerate(seeds):
        count = total // len(seeds) + (index < total % len(seeds))
        texts = dict.fromkeys(expand(document_seed, number, seed) for number in range(count))
        rows += [_row(document_seed, number, text) for number, text in enumerate(texts)]
    return rows


def _row(seed: Seed, number: int, text: str) -> dict[str, Any]:
    day = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=stable_hash(seed.id, number) % 180)
    return {
        "id": f"{seed.id}/{number:03}",
        "text": text,
        "label": seed.score,
        "url": f"https://{seed.kind}.example.com/{seed.id}/{number}",
        "dump": "safety-ray-demo",
        "date": day.isoformat(),
        "language": "en",
        "token_count": len(re.findall(r"\w+|[^\w\s]", text)),
        "category": seed.category,
        "kind": seed.kind,
        "family": seed.id,
        "split": seed.split,
    }


if __name__ == "__main__":
    from jobs.cli import main

    main("corpus")
