"""The exception for mistakes of the user."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Collection, Iterator
from typing import Any

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OF_RUST = re.compile(rf"\(os error ({'|'.join(map(str, (*_REFUSED, errno.EACCES, errno.EPERM)))})\)")
"""Refusals as reported by tokenizers and safetensors, which are written in Rust: not as OSError"""
_OF_TORCH = re.compile(r"inline_container\.cc.*(unexpected pos|file write failed)")
"""A failed write as reported by torch.save; its reason is lost on the way from Ray's worker"""
_REFUSED_BY_S3 = ("AWS Error ACCESS_DENIED", "AWS Error EXPIRED_TOKEN", "ExpiredToken", "token has expired")
_OF_WORKERS = ("worker_failures", "failures")
"""Attributes with the errors of the workers of Ray Train and of PyTorch's checkpoints (with tracebacks)"""
_RAY_FULL = ("OutOfDiskError", "ObjectStoreFullError")


class UserError(Exception):
    """A mistake in input, settings or environment that the user can correct.

    The message is one line that names the file, row or key and a valid value. A job prints it without a
    traceback and exits with code 2.
    """


class DriverUnusable(UserError):
    """A `UserError` after which this process can run no other stage."""


def nearest(name: str, known: Collection[str]) -> str:
    """Return the name of `known`, which is not empty, that is most similar to `name`."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def original(error: BaseException) -> BaseException:
    """Return the exception that a worker of Ray raised, if `error` is Ray's copy, else `error`.

    The copy is an instance of the same class, but its message is a traceback.
    """
    cause = getattr(error, "cause", None) if type(error).__module__ == "ray.exceptions" else None
    return original(cause) if isinstance(cause, BaseException) else error


def user_error_in(error: BaseException) -> UserError | None:
    """Return the `UserError` that `error` is or was caused by, or None; Ray wraps exceptions."""
    for current in map(original, _causes(error)):
        if isinstance(current, UserError):
            return current
    return None


def correctable(error: BaseException) -> UserError | None:
    """Return what the user can correct about `error` or its causes, or None."""
    return user_error_in(error) or storage_error_in(error) or lost_blocks_in(error)


def storage_error_in(error: BaseException) -> UserError | None:
    """Return a `UserError` if the cause is a storage that is full or refuses access, else None."""
    for current in _causes(error):
        full = type(current).__module__ == "ray.exceptions" and type(current).__name__ in _RAY_FULL
        if not _quoted(current) and (full or _is_refused(current)):
            problem = (str(current).strip() or type(current).__name__).splitlines()[0].rstrip(". ")
            if _OF_TORCH.search(problem):
                problem = "PyTorch could not write a file"
            return UserError(
                f"the storage is full or refuses access ({problem}); correct this and run the same command "
                "again, which resumes."
            )
    return None


def lost_blocks_in(error: BaseException) -> UserError | None:
    """Return a `UserError` if the cause is that a task waited for blocks until Ray's limit, else None."""
    for current in _causes(error):
        is_timeout = (
            type(current).__module__ == "ray.exceptions" and type(current).__name__ == "GetTimeoutError"
        )
        if is_timeout and "starting actors" not in str(current):
            return UserError(
                "a task has waited too long for blocks, probably those of a lost node; run the same command "
                "again, which resumes."
            )
    return None


def _is_refused(error: BaseException) -> bool:
    if not isinstance(error, OSError):
        return any(pattern.search(str(error)) for pattern in (_OF_RUST, _OF_TORCH))
    return (
        isinstance(error, PermissionError)
        or error.errno in _REFUSED
        or any(text in str(error) for text in _REFUSED_BY_S3)
        or type(error.__cause__).__module__.startswith("botocore.")  # S3 answers HEAD without a reason
    )


def _quoted(error: BaseException) -> list[BaseException]:
    """Return the errors of Ray's or PyTorch's workers that `error` holds, and quotes in its message."""
    inner: list[Any] = [getattr(error, "cause", None)]
    for name in _OF_WORKERS:
        failures = getattr(error, name, None)
        for failure in failures.values() if isinstance(failures, dict) else ():
            inner.append(failure[0] if isinstance(failure, tuple) and failure else failure)
    return [other for other in inner if isinstance(other, BaseException)]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that it was caused by, in Ray's workers too."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__, *_quoted(current)]
