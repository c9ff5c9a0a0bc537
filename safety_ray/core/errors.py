"""The one exception a user's mistake raises, and how a job shows it."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class UserError(Exception):
    """A mistake in input, settings or surroundings that its reader can mend.

    The message is one sentence that names the file, row or key and says what would fit.
    A job prints it without a traceback and ends with exit code 2.
    """


def nearest(name: str, known: Collection[str]) -> str:
    """Which of `known`, at least one, a misspelt `name` was most likely meant to be."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def user_error_in(error: BaseException) -> UserError | None:
    """The `UserError` that `error` is or was caused by; Ray wraps what its workers raise."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # RayTaskError keeps the original in `cause` (and may itself be a UserError whose message is a
        # traceback, so the original comes first), Ray Train its workers' in `worker_failures`.
        cause = getattr(current, "cause", None)
        if isinstance(current, UserError) and not isinstance(cause, UserError):
            return current
        queue += [current.__cause__, current.__context__]
        queue += [cause] if isinstance(cause, BaseException) else []
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
