"""A UserError is found in the exceptions of Ray's workers, and shown without a traceback."""

from __future__ import annotations

import errno
import pickle
from traceback import StackSummary

import pytest

from safety_ray.core.errors import UserError, lost_blocks_in, original, storage_error_in, user_error_in


def test_user_error_in_finds_message_from_ray_data_worker(ray_cluster) -> None:
    import ray.data

    def fail(batch):
        raise UserError("row 'x' has no text.")

    with pytest.raises(Exception) as caught:  # noqa: PT011
        ray.data.range(3).map_batches(fail).materialize()
    assert str(user_error_in(caught.value)).splitlines()[0] == "row 'x' has no text."


def test_original_is_what_a_worker_raised(ray_cluster) -> None:
    import ray

    @ray.remote
    def fail():
        raise UserError("row 'x' has no text.")

    @ray.remote
    def fail_because_of_another():
        ray.get(fail.remote())

    for task in (fail, fail_because_of_another):
        with pytest.raises(UserError) as caught:
            ray.get(task.remote())
        assert "Traceback" in str(caught.value) or "ray::" in str(caught.value), "Ray's copy"
        assert str(original(caught.value)) == str(user_error_in(caught.value)) == "row 'x' has no text."
    plain = UserError("plain")
    assert original(plain) is plain


def test_user_error_in_follows_cause_and_ignores_other_errors() -> None:
    error = RuntimeError("around it")
    error.__cause__ = UserError("the cause")
    assert str(user_error_in(error)) == "the cause"
    assert user_error_in(RuntimeError("something else")) is None


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError("Access Denied"), "Access Denied"),
        (OSError("When uploading part: AWS Error ACCESS_DENIED during PutObject operation"), "ACCESS_DENIED"),
        (OSError("The provided token has expired."), "token has expired"),
        (Exception("No space left on device (os error 28)"), "No space left"),  # of tokenizers
        (RuntimeError("Error while serializing: I/O error: Permission denied (os error 13)"), "denied"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
            "PyTorch could not write a file",
        ),
    ],
)
def test_storage_error_in_names_the_refusal(cause: Exception, says: str) -> None:
    error = RuntimeError("around it")
    error.__cause__ = cause
    found = storage_error_in(error)
    assert found is not None
    assert says in str(found)
    assert "run the same command again" in str(found)


def test_storage_error_in_finds_error_of_checkpoint_in_ray_train_worker() -> None:
    from ray.train import WorkerGroupError
    from torch.distributed.checkpoint.api import CheckpointException

    full = CheckpointException("", {1: (OSError(errno.ENOSPC, "No space left on device"), StackSummary())})
    quoted = "Exception: Permission denied (os error 13)"  # Ray's message quotes the errors
    failures = {0: RuntimeError("another"), 1: full}
    sent = pickle.loads(pickle.dumps(WorkerGroupError(quoted, failures)))
    assert "No space left on device" in str(storage_error_in(sent))
    odd = RuntimeError("odd")
    odd.failures = {"a": "text", "b": ()}  # type: ignore[attr-defined]
    assert storage_error_in(odd) is None


def test_storage_error_in_ignores_other_errors() -> None:
    for error in (
        OSError("a broken connection"),
        FileNotFoundError("x"),
        ValueError("No space left"),
        Exception("No such file or directory (os error 2)"),
    ):
        assert storage_error_in(error) is None


def test_lost_blocks_in_finds_time_limit_of_worker(ray_cluster: None) -> None:
    import ray
    import ray.data

    def wait(batch):
        @ray.remote(resources={"a resource that no node has": 1})
        def never() -> None: ...

        ray.get(never.remote(), timeout=0.01)

    with pytest.raises(Exception) as caught:  # noqa: PT011
        ray.data.range(3).map_batches(wait).materialize()
    assert "probably those of a lost node; run the same command again" in str(lost_blocks_in(caught.value))
    assert lost_blocks_in(TimeoutError("another")) is None
    # Ray 2.60 raises the same for a pool that gets no resources.
    assert lost_blocks_in(ray.exceptions.GetTimeoutError("Timed out while starting actors.")) is None
