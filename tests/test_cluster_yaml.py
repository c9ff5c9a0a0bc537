"""The cluster files are what Ray's own launcher accepts, and keep what docs/clusters.md says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


FILES = ["cluster.yaml", "deploy/gcp.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(scope="module", params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The file with Ray's defaults filled in and checked against its schema, as `ray up` does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(request.param))
    validate_config(config)
    return dict(config)


def workers(cluster: dict[str, Any], market: str) -> dict[str, dict[str, Any]]:
    """Return the worker types of a market, by their pool."""
    types = [t for n, t in cluster["available_node_types"].items() if n != cluster["head_node_type"]]
    return {t["labels"]["pool"]: t for t in types if t["labels"]["market"] == market}


def is_spot(worker: dict[str, Any]) -> bool:
    node = worker["node_config"]
    on_gcp = node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    return on_gcp or node.get("InstanceMarketOptions") == {"MarketType": "spot"}


@pytest.mark.parametrize("name", FILES)
def test_cluster_yaml_schema_rejects_unknown_key(name: str) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="idle_minutes"):
        validate_config(prepare_config({**read(name), "idle_minutes": 5}))


def test_cluster_yaml_provider_keys_are_known(cluster: dict[str, Any]) -> None:
    """Ray's schema names the keys of `provider` and allows others, so it accepts a misspelled one."""
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    known = schema["properties"]["provider"]["properties"]
    assert {"type", "region"} < cluster["provider"].keys() < known.keys()


def test_cluster_yaml_has_one_on_demand_head_without_gpu(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert not is_spot(head), "losing the head loses the cluster"
    machine = head["node_config"].get("InstanceType") or head["node_config"]["machineType"]
    assert machine in ("m7i.2xlarge", "n2-standard-8"), "machines without a GPU"


def test_cluster_yaml_workers_scale_from_zero_spot_first(cluster: dict[str, Any]) -> None:
    spot, on_demand = workers(cluster, "spot"), workers(cluster, "on-demand")
    assert set(spot) == {"cpu", "classifier", "rewriter"}
    assert set(on_demand) == {*spot, "training"}
    for pool, cheap in spot.items():
        dear = on_demand[pool]
        assert is_spot(cheap)
        assert not is_spot(dear)
        # Of kinds that fit equally well, the autoscaler starts the one with the highest priority.
        assert cheap["resources"] == dear["resources"]
        assert cheap["priority"] > dear["priority"]
        assert cheap["min_workers"] == dear["min_workers"] == 0 < cheap["max_workers"] == dear["max_workers"]
    assert on_demand["training"]["max_workers"] == 0, "eight GPUs start only if somebody asks for them"
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
