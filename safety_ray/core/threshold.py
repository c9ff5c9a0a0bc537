"""The threshold that an audit chose: the score from which a document is treated as unsafe."""

from __future__ import annotations

from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError


def audited(path: str) -> int:
    """The threshold of the finished audit in `path`, 1-5; UserError where it has none."""
    record = read_record(path)
    if record is None or "threshold" not in record:
        raise UserError(f"thresholds_from: '{path}' is no audit; make one with python -m jobs.audit.")
    if record["threshold"] is None:
        wanted = ", ".join(f"a {name} of {share}" for name, share in record["wanted"].items())
        why = f"no threshold reaches {wanted}" if wanted else "it was made without `wanted`"
        raise UserError(
            f"thresholds_from: the audit '{path}' chose no threshold, for {why}; audit again with another "
            "wanted={recall: ...} or {precision: ...}, or set the scores by hand."
        )
    return int(record["threshold"])
