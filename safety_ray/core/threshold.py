"""The threshold of an audit: the lowest score of documents that are treated as unsafe."""

from __future__ import annotations

from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError


def audited(path: str) -> int:
    """Return the threshold 1-5 of the finished audit in `path`. Raises UserError if it has none."""
    record = read_record(path)
    if record is None or "threshold" not in record:
        raise UserError(f"thresholds_from: '{path}' is not an audit; create one with python -m jobs.audit.")
    if record["threshold"] is None:
        wanted = ", ".join(f"a {name} of {share}" for name, share in record["wanted"].items())
        reason = f"no threshold reaches {wanted}" if wanted else "it was run without `wanted`"
        raise UserError(
            f"thresholds_from: the audit '{path}' has no threshold, because {reason}; run it again "
            "with another wanted={recall: ...} or {precision: ...}, or set the scores yourself."
        )
    return int(record["threshold"])
