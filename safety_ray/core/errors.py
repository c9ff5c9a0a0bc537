"""The exception for mistakes of the user."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class UserError(Exception):
    """A mistake in input, settings or environment that the user can correct.

    The message is one line that names the file, row or key and a valid value. A job prints it without a
    traceback and exits with code 2.
    """


def nearest(name: str, known: Collection[str]) -> str:
    """Return the name of `known`, which is not empty, that is most similar to `name`."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def user_error_in(error: BaseException) -> UserError | None:
    """Return the `UserError` that `error` is or was caused by, or None; Ray wraps exceptions."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # RayTaskError keeps the original in `cause`. It may be a UserError itself, whose message is a
        # traceback, so the original takes precedence. Ray Train keeps the errors of its workers in
        # `worker_failures`.
        cause = getattr(current, "cause", None)
        if isinstance(current, UserError) and not isinstance(cause, UserError):
            return current
        queue += [current.__cause__, current.__context__]
        queue += [cause] if isinstance(cause, BaseException) else []
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
