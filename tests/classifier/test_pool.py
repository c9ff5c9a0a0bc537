"""The size of the pool on different clusters, and invalid settings."""

from __future__ import annotations

from typing import Any

import pytest

from safety_ray.classifier.pool import Pool
from safety_ray.core.errors import UserError


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "rows", "expected"),
    [
        ({}, 16, 0, 10**6, (14, 14)),  # two slots stay free
        ({}, 2, 0, 10**6, (1, 1)),
        ({}, 16, 2, 10**6, (4, 4)),  # two per GPU
        ({"gpus_per_actor": 1.0}, 16, 2, 10**6, (2, 2)),
        ({}, 4, 2, 10**6, (2, 2)),  # no more than there are free CPUs
        ({"device": "cpu"}, 16, 2, 10**6, (14, 14)),
        ({"actors": 8, "min_actors": 2}, 16, 0, 10**6, (2, 8)),
        ({"actors": 8, "device": "gpu"}, 4, 0, 10**6, (8, 8)),  # nodes that are still to come
        ({}, 16, 0, 700, (2, 2)),  # no more actors than batches
        ({"actors": 8, "min_actors": 4}, 16, 0, 700, (2, 2)),
        ({}, 16, 0, 0, (1, 1)),
    ],
)
def test_pool_size_follows_settings_and_cluster_resources(
    settings: dict[str, Any], cpus: float, gpus: float, rows: int, expected: tuple[int, int]
) -> None:
    assert Pool(**settings).size(cpus, gpus, rows) == expected


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "actors", "expected"),
    [
        ({}, 16, 0, 14, 1),
        ({}, 96, 8, 16, 4),
        ({}, 16, 2, 4, 3),
        ({}, 4, 2, 2, 1),
        ({"device": "cpu"}, 96, 8, 2, 1),
        ({"actors": 8, "device": "gpu"}, 4, 0, 8, 4),  # nodes that are still to come
    ],
)
def test_pool_cpus_of_gpu_actors_fit_the_cluster(
    settings: dict[str, Any], cpus: float, gpus: float, actors: int, expected: int
) -> None:
    assert Pool(**settings).cpus_per_actor(cpus, gpus, actors) == expected


def test_pool_rejects_invalid_settings() -> None:
    with pytest.raises(UserError, match="min_actors=3 and actors=2"):
        Pool(actors=2, min_actors=3)
    with pytest.raises(UserError, match=r"gpus_per_actor=2\.0 must be above 0"):
        Pool(gpus_per_actor=2.0)
    with pytest.raises(
        UserError, match="batch_rows must be positive, batch_tokens and write_rows 0 or positive"
    ):
        Pool(batch_tokens=-1)
    with pytest.raises(UserError, match="device=gpu, but the cluster has no GPU"):
        Pool(device="gpu").size(8, 0, 100)
