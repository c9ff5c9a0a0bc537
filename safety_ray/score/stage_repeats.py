"""Tasks of the scoring stage for duplicate texts, separate from stage.py to import no model library.

`repeats` is a reference to a `Repeats` in Ray's object store, which all tasks on a node read without copying.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import ray

from safety_ray.score.repeats import Repeats


def split(batch: pa.Table, repeats: Any, copies: bool) -> pa.Table:
    """Return the rows of `batch` that are copies of another text, or the rows that are not."""
    found: Repeats = ray.get(repeats)
    return found.split(batch, copies)


def fill(batch: pa.Table, repeats: Any, known: Any) -> pa.Table:
    """Return the copies with the score columns of the text that was scored."""
    found: Repeats = ray.get(repeats)
    return found.fill(batch, ray.get(known))


def owned(batch: pa.Table, repeats: Any) -> pa.Table:
    """Return the scored rows that have copies, with their positions."""
    found: Repeats = ray.get(repeats)
    return found.owned(batch)
