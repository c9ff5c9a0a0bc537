"""Pods and other objects of the files for Kubernetes keep to the schema of Kubernetes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
FILES = sorted(path.name for path in DEPLOY.glob("*.yaml") if "apiVersion:" in path.read_text())
VERSION = kubernetes_validate.latest_version()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the specifications of all pods in `value`."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)  # strict: no unknown field


def as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def test_files_with_pods_are_found() -> None:
    assert FILES == ["history.yaml", "rayjob.yaml", "rayservice.yaml"]
    assert all(list(pods(documents(name))) for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_objects_match_schema_of_kubernetes(name: str) -> None:
    for document in documents(name):
        if not document["apiVersion"].startswith("ray.io/"):
            validate(document)


@pytest.mark.parametrize("name", FILES)
def test_pods_match_schema_of_kubernetes(name: str) -> None:
    for spec in pods(documents(name)):
        validate(as_pod(spec))
        for container in spec["containers"]:
            assert container["image"]
            assert container["resources"].keys() == {"requests", "limits"}
            with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
                validate(as_pod({**spec, "containers": [{**container, "imagePullPolice": "Always"}]}))
