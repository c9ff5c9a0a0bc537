"""A user's mistake is recognised wherever it was raised, and shown without a traceback."""

from __future__ import annotations

import pytest

from safety_ray.errors import UserError, user_error_in


def test_a_mistake_inside_a_ray_data_worker_keeps_its_sentence(ray_cluster) -> None:
    import ray.data

    def fail(batch):
        raise UserError("row 'x' has no text.")

    with pytest.raises(Exception) as caught:  # noqa: PT011
        ray.data.range(3).map_batches(fail).materialize()
    assert str(user_error_in(caught.value)).splitlines()[0] == "row 'x' has no text."


def test_a_mistake_behind_other_exceptions_is_found_and_others_are_not() -> None:
    error = RuntimeError("around it")
    error.__cause__ = UserError("the cause")
    assert str(user_error_in(error)) == "the cause"
    assert user_error_in(RuntimeError("something else")) is None
