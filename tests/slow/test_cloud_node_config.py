"""Requests for the machines of cluster.yaml and deploy/gcp.yaml keep to the APIs of AWS and Google Cloud.

Ray's own schema leaves `node_config` open. Here Ray's providers make the requests, and nothing is sent.
botocore validates them by its model of EC2. The discovery document of Google's client has the schema of an
instance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from own_environment import beside

pytestmark = pytest.mark.covers("safety_ray.core.cluster")
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = "googleapiclient/discovery_cache/documents/compute.v1.json"
PROJECT = "project-1"
# The keys that a user may uncomment.
OPTIONAL = {"cluster.yaml": "IamInstanceProfile", "deploy/gcp.yaml": "serviceAccounts"}


def read(name: str) -> dict[str, Any]:
    """Return a file with its optional key and with the name of a project."""
    lines, optional = [], False
    for line in (ROOT / name).read_text().replace("project-CHANGE-ME", PROJECT).splitlines():
        comment = line.strip()
        optional = comment.startswith(f"# {OPTIONAL[name]}:") or (optional and comment.startswith("#   "))
        lines.append(line.replace("# ", "", 1) if optional else line)
    return dict(yaml.safe_load("\n".join(lines)))


AWS, GCP = (read(name) for name in OPTIONAL)


@pytest.fixture(scope="module")
def clients(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The clients that the launcher uses, in the versions of requirements/cloud.txt."""
    folder = beside(pytestconfig.cache.mkdir("clouds"), "cloud.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "unused")
        yield folder


def run_instances(node_config: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the parameters of RunInstances for a node, which botocore has validated, and their shape."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(AWS["provider"], AWS["cluster_name"])
    events = provider.ec2_fail_fast.meta.client.meta.events
    sent = []

    def keep(params: dict[str, Any], model: Any, **_: Any) -> None:
        sent.append((dict(params), model.input_shape))

    def answer(**_: Any) -> tuple[Any, dict[str, Any]]:
        from botocore.awsrequest import AWSResponse

        return AWSResponse("https://unused", 200, {}, None), {"Instances": []}

    handlers = {"before-parameter-build": keep, "before-call": answer}
    for event, handler in handlers.items():
        events.register(f"{event}.ec2.RunInstances", handler)
    try:
        # What the launcher adds to every node before it creates one.
        added = {"KeyName": "key", "SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
        provider._create_node({**node_config, **added}, {"ray-node-name": "node"}, 1)
    finally:
        for event, handler in handlers.items():
            events.unregister(f"{event}.ec2.RunInstances", handler)
    (request,) = sent
    return request


def unknown_values(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of values that the model does not list; botocore leaves them to EC2."""
    if shape.type_name == "structure":
        for key, inner in value.items():
            yield from unknown_values(inner, shape.members[key], f"{path}.{key}")
    elif shape.type_name == "list":
        for inner in value:
            yield from unknown_values(inner, shape.member, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield path


@pytest.mark.parametrize("kind", AWS["available_node_types"])
def test_aws_node_config_matches_model_of_ec2(clients: Path, kind: str) -> None:
    node = AWS["available_node_types"][kind]["node_config"]
    params, shape = run_instances(node)
    assert node.items() <= params.items(), "Ray sends all of it"
    assert list(unknown_values(params, shape)) == []
    assert ("IamInstanceProfile" in params) == (kind != "head"), "all workers have the optional role"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ImageID": "ami-1"}, 'Unknown parameter in input: "ImageID"'),
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSizes": 1}}]}, 'BlockDeviceMappings[0].Ebs: "VolumeSizes"'),
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "1"}}]}, "BlockDeviceMappings[0].Ebs.VolumeSize"),
        ({"InstanceMarketOptions": {"MarketTypes": "spot"}}, 'InstanceMarketOptions: "MarketTypes"'),
    ],
)
def test_aws_misspelled_key_is_refused(clients: Path, change: dict[str, Any], message: str) -> None:
    from botocore.exceptions import ParamValidationError

    node = AWS["available_node_types"]["cpu_spot"]["node_config"]
    with pytest.raises(ParamValidationError) as refused:
        run_instances({**node, **change})
    assert message in str(refused.value)


def test_aws_unknown_values_are_found(clients: Path) -> None:
    node = AWS["available_node_types"]["cpu_spot"]["node_config"]
    wrong = {"InstanceType": "m7i.3xlarge", "InstanceMarketOptions": {"MarketType": "Spot"}}
    params, shape = run_instances({**node, **wrong})
    assert sorted(unknown_values(params, shape)) == [".InstanceMarketOptions.MarketType", ".InstanceType"]


def test_aws_region_is_known(clients: Path) -> None:
    import botocore.session

    assert AWS["provider"]["region"] in botocore.session.Session().get_available_regions("ec2")


@pytest.fixture(scope="module")
def document(clients: Path) -> dict[str, Any]:
    return dict(json.loads((clients / DOCUMENT).read_text()))


def insert(document: dict[str, Any], node_config: dict[str, Any]) -> dict[str, Any]:
    """Return the body of instances.insert that Ray sends for a node."""
    from googleapiclient.discovery import build_from_document
    from googleapiclient.http import HttpMockSequence
    from ray.autoscaler._private.gcp.node import GCPCompute

    class Offline(GCPCompute):  # type: ignore[misc]
        def get_new_authorized_http(self, http: Any) -> Any:
            return http

    http = HttpMockSequence([({"status": "200"}, "{}")])
    resource = build_from_document(document, http=http)
    compute = Offline(resource, PROJECT, GCP["provider"]["availability_zone"], GCP["cluster_name"])
    # What the launcher adds to every node before it creates one.
    interface = {"subnetwork": "url", "accessConfigs": [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]}
    added = {"networkInterfaces": [interface], "networkConfig": {"subnetwork": "url"}}
    compute.create_instance({**node_config, **added}, {"ray-node-name": "node"}, wait_for_operation=False)
    ((_, method, body, _),) = http.request_sequence
    assert method == "POST"
    return dict(json.loads(body))


def json_schema(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a discovery document as a JSON schema whose objects have no other properties."""
    if "$ref" in part:
        return {"$ref": f"#/definitions/{part['$ref']}"}
    if part["type"] == "any":
        return {}
    schema = {key: part[key] for key in ("type", "enum") if key in part}
    if "items" in part:
        schema["items"] = json_schema(part["items"])
    if part["type"] == "object":
        properties = part.get("properties", {})
        schema["properties"] = {name: json_schema(inner) for name, inner in properties.items()}
        others = part.get("additionalProperties")
        schema["additionalProperties"] = json_schema(others) if others else False
    return schema


@pytest.fixture(scope="module")
def instance(document: dict[str, Any]) -> jsonschema.Draft7Validator:
    definitions = {name: json_schema(part) for name, part in document["schemas"].items()}
    return jsonschema.Draft7Validator({"$ref": "#/definitions/Instance", "definitions": definitions})


@pytest.mark.parametrize("kind", GCP["available_node_types"])
def test_gcp_node_config_matches_discovery_document(
    document: dict[str, Any], instance: jsonschema.Draft7Validator, kind: str
) -> None:
    node = GCP["available_node_types"][kind]["node_config"]
    body = insert(document, node)
    instance.validate(body)
    assert node.keys() <= body.keys(), "Ray sends all of it"
    zone = GCP["provider"]["availability_zone"]
    assert body["machineType"] == f"zones/{zone}/machineTypes/{node['machineType']}"
    assert body["disks"][0]["initializeParams"]["diskType"].startswith(f"zones/{zone}/diskTypes/")
    assert ("serviceAccounts" in body) == (kind != "head"), "all workers have the optional account"
    assert zone.startswith(f"{GCP['provider']['region']}-")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"disk": []}, "'disk' was unexpected"),
        ({"disks": [{"initializeParams": {"diskSizeGB": "1"}}]}, "'diskSizeGB' was unexpected"),
        ({"disks": [{"initializeParams": {"diskSizeGb": 1}}]}, "1 is not of type 'string'"),
        ({"scheduling": {"provisioningModel": "Spot"}}, "'Spot' is not one of"),
    ],
)
def test_gcp_misspelled_key_is_refused(
    document: dict[str, Any], instance: jsonschema.Draft7Validator, change: dict[str, Any], message: str
) -> None:
    node = GCP["available_node_types"]["cpu_spot"]["node_config"]
    with pytest.raises(jsonschema.ValidationError, match=message):
        instance.validate(insert(document, {**node, **change}))
