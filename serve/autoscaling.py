"""Ray Serve's autoscaling by rows of the engines' batches instead of HTTP requests.

Ray Serve pickles this module by value and calls the policy in its controller, which may not have this
package. The module imports the standard library only.
"""

from __future__ import annotations

from typing import Any

ROWS = "engine_rows"
"""Name under which a replica reports the rows of its requests."""


def replicas_for_rows(context: Any) -> tuple[float, dict[str, Any]]:
    """Return the number of replicas that have `target_ongoing_requests` rows each, and no state.

    `context` is Ray Serve's AutoscalingContext. A request that has not reached a replica counts as many rows
    as the others on average. Ray Serve applies delays, factors and limits to the result.
    """
    by_replica = (context.aggregated_metrics or {}).get(ROWS, {})
    queued = context.total_queued_requests or 0
    running = max(context.total_num_requests - queued, 0)
    rows = max(sum(by_replica.values()), running)  # a request has at least one row
    rows += queued * (rows / running if running else 1)
    return rows / context.config.target_ongoing_requests, {}
