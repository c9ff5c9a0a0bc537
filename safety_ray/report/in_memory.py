"""The Data Safety Report Card of tables that fit in memory, without Ray."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from safety_ray.report.card import build_card
from safety_ray.report.sources import count_originals_of, hash_sources, merge_sources
from safety_ray.report.tally import count_originals, count_rewritten, merge_cells


def build_report_card(
    scored: pa.Table, rewritten: pa.Table | None = None, title: str = "Data Safety Report Card"
) -> dict[str, Any]:
    """Return the numbers of a report card (paper, section 3) as a JSON-ready dictionary.

    `scored` has the columns id, text and score; `rewritten` also source_id, source_score and recipe, and
    root_id if a source_id may be the id of another rewritten text. Without `rewritten` the card describes the
    data before rewriting only. Raises UserError for rows without a score.
    """
    if rewritten is None:
        return build_card(merge_cells([count_originals(scored)]), title, rewritten=False)
    sources = merge_sources([hash_sources(rewritten)])
    cells = merge_cells([count_originals_of(scored, sources), count_rewritten(rewritten)])
    return build_card(cells, title, rewritten=True)
