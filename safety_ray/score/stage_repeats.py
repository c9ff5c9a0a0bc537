"""A scoring stage's tasks for copies, apart from stage.py: they import no library of a model.

`repeats` is the reference of a `Repeats` in Ray's object store, which all tasks of a node read in place.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import ray

from safety_ray.score.repeats import Repeats


def split(batch: pa.Table, repeats: Any, copies: bool) -> pa.Table:
    """The rows of `batch` that are copies of another text, or those that are not."""
    found: Repeats = ray.get(repeats)
    return found.split(batch, copies)


def fill(batch: pa.Table, repeats: Any, known: Any) -> pa.Table:
    """Copies with the columns of the text that was scored."""
    found: Repeats = ray.get(repeats)
    return found.fill(batch, ray.get(known))


def owned(batch: pa.Table, repeats: Any) -> pa.Table:
    """The scored rows of which there are copies, with their place."""
    found: Repeats = ray.get(repeats)
    return found.owned(batch)
