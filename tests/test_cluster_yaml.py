"""cluster.yaml is what Ray's own launcher accepts, and keeps what the guide says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file with Ray's defaults filled in and checked against its schema, as `ray up` does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    return dict(config)


def test_cluster_yaml_schema_rejects_unknown_key() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    with pytest.raises(ValidationError, match="idle_minutes"):
        validate_config(prepare_config({**config, "idle_minutes": 5}))


def test_cluster_yaml_has_one_on_demand_head_without_gpu(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert "InstanceMarketOptions" not in head["node_config"], "losing the head loses the cluster"
    assert head["node_config"]["InstanceType"].startswith("m")


def test_cluster_yaml_workers_scale_from_zero_on_spot(cluster: dict[str, Any]) -> None:
    workers = {n: t for n, t in cluster["available_node_types"].items() if n != cluster["head_node_type"]}
    assert set(workers) == {"cpu_worker", "gpu_worker"}
    for worker in workers.values():
        assert worker["min_workers"] == 0 < worker["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert cluster["max_workers"] >= sum(worker["max_workers"] for worker in workers.values())
    assert 0 < cluster["idle_timeout_minutes"] <= 10


def test_cluster_yaml_nodes_use_token_authentication(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in cluster[key] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start" in " ".join(starts[0].split())
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["initialization_commands"])


def test_cluster_yaml_mounts_every_file_that_setup_needs(cluster: dict[str, Any]) -> None:
    base = "/home/ubuntu/safety-ray/"
    copied = {
        far.removeprefix(base): near for far, near in cluster["file_mounts"].items() if far.startswith(base)
    }
    assert all((ROOT / near).exists() for near in copied.values()), copied
    assert all(far == near for far, near in copied.items())
    # What the build of the package and the set-up script read.
    assert set(copied) >= {
        "safety_ray",
        "jobs",
        "serve",
        "scripts",
        "requirements",
        "pyproject.toml",
        "LICENSE",
    }
    assert not set(copied) & {".", ".venv", ".git", "runs"}


def test_cluster_yaml_sets_up_each_node_with_setup_script(cluster: dict[str, Any]) -> None:
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert sum("scripts/setup.sh" in command for command in cluster[key]) == 1
    assert not any("git clone" in command for command in cluster["head_setup_commands"])
