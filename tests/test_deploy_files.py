"""The files for Kubernetes, Slurm and containers keep to the schemas of what reads them.

None of them can be run here. The fields were compared with KubeRay's Go types, its CRD reference (ray.io/v1)
and the rules of its operator, version 1.7.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from safety_ray.core.config import from_dict
from serve.app import ServeConfig
from serve.build import needed_resource

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
TEXT = {"type": "string"}
OPEN = {"type": "object"}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object", "properties": properties, "required": required, "additionalProperties": False
    }  # fmt: skip


PARAMS = {"type": "object", "additionalProperties": TEXT}  # rayStartParams: a number must be quoted
TEMPLATE = closed(["spec"], spec={**OPEN, "required": ["containers"]})  # test_kubernetes_schema.py
CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion=TEXT,
    authOptions=closed([], mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    historyServerOptions=closed(
        ["collectorOptions"],
        collectorOptions=closed(
            ["image", "env"], image=TEXT, imagePullPolicy=TEXT, env={"type": "array"}, resources=OPEN
        ),
    ),
    autoscalerOptions=closed([], version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    headGroupSpec=closed(["template"], serviceType=TEXT, rayStartParams=PARAMS, template=TEMPLATE),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "maxReplicas", "minReplicas", "template"],
            groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=PARAMS,
            template=TEMPLATE,
        ),
    },
)  # fmt: skip
SPECS = {
    "RayJob": closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT, backoffLimit=COUNT, shutdownAfterJobFinishes=FLAG, ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=CLUSTER,
    ),
    "RayService": closed(
        ["serveConfigV2", "rayClusterConfig"],
        serveConfigV2=TEXT, excludeHeadPodFromServeSvc=FLAG, rayClusterConfig=CLUSTER,
    ),
}  # fmt: skip
MANIFESTS = ["rayjob.yaml", "rayservice.yaml"]


def read(name: str) -> dict[str, Any]:
    values = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(values, dict)
    return values


def ray_cluster_of(name: str) -> dict[str, Any]:
    spec = read(name)["spec"]
    return dict(spec.get("rayClusterSpec") or spec["rayClusterConfig"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_manifest_matches_schema(name: str) -> None:
    values = read(name)
    assert values["apiVersion"] == "ray.io/v1"
    jsonschema.validate(values["spec"], SPECS[values["kind"]])
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate({**values["spec"], "backofLimit": 1}, SPECS[values["kind"]])


def test_history_server_reads_what_the_commented_collector_writes() -> None:
    text = (DEPLOY / "rayjob.yaml").read_text()
    lines = [line.replace("    # ", "    ", 1) for line in text.splitlines() if "    # " in line[:6]]
    start = next(n for n, line in enumerate(lines) if line.strip() == "historyServerOptions:")
    options = yaml.safe_load("\n".join(line for line in lines[start:] if line.startswith(("    h", "     "))))
    spec = read("rayjob.yaml")["spec"]
    spec["rayClusterSpec"] |= options
    jsonschema.validate(spec, SPECS["RayJob"])
    variables = {
        variable["name"]: variable["value"]
        for variable in options["historyServerOptions"]["collectorOptions"]["env"]
    }
    assert variables.keys() == {"STORAGE_BACKEND", "S3_BUCKET", "S3_REGION"}, "what the operator wants for s3"
    assert variables["STORAGE_BACKEND"] == "s3"
    account, role, binding, service, deployment = yaml.safe_load_all((DEPLOY / "history.yaml").read_text())
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account["metadata"]["name"]]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert service["spec"]["type"] == "ClusterIP", "not reachable from outside"
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    assert container["env"] == options["historyServerOptions"]["collectorOptions"]["env"]
    assert container["ports"] == [{"containerPort": service["spec"]["ports"][0]["targetPort"]}]
    images = [container["image"], options["historyServerOptions"]["collectorOptions"]["image"]]
    assert not [image for image in images if "/" in image], "no registry is named"


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_operator_would_accept_manifest(name: str) -> None:
    """The operator applies these rules after `kubectl apply`; the CRD does not have them."""
    spec, cluster = read(name)["spec"], ray_cluster_of(name)
    if spec.get("ttlSecondsAfterFinished"):
        assert spec["shutdownAfterJobFinishes"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", read(name)["metadata"]["name"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never", "autoscaler v2"
        assert "labels" not in group["rayStartParams"]
    container = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"] for variable in container.get("env", [])}
    assert not variables & {"RAY_enable_autoscaler_v2", "RAY_REDIS_ADDRESS", "REDIS_USERNAME"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_cluster_is_private_and_scales_from_zero(name: str) -> None:
    import ray

    cluster = ray_cluster_of(name)
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP", "not reachable from outside"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
        pod = group["template"]["spec"]
        gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", "0")
        assert (group["groupName"] == "cpu") == (int(gpus) == 0)
        tolerated = {toleration["key"] for toleration in pod["tolerations"]}
        assert ("nvidia.com/gpu" in tolerated) == (int(gpus) > 0), "GPU nodes are for pods with a GPU"
        on_spot = group["groupName"] != "training"
        assert ("cloud.google.com/gke-spot" in tolerated) == ("affinity" in pod) == on_spot
        if on_spot:
            affinity = pod["affinity"]["nodeAffinity"]
            assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"], (
                "falls back to on-demand"
            )


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_cluster_is_accepted_by_rays_autoscaler(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    custom = {
        "metadata": {"name": "safety-ray", "namespace": "default"}, "spec": ray_cluster_of(name)
    }  # fmt: skip
    kinds = _derive_autoscaling_config_from_ray_cr(custom)["available_node_types"]
    groups = ray_cluster_of(name)["workerGroupSpecs"]
    assert {group["groupName"] for group in groups} < kinds.keys()
    for group in groups:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        kind = kinds[group["groupName"]]
        assert kind["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", "0"))
        assert (kind["min_workers"], kind["max_workers"]) == (0, group["maxReplicas"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_pods_run_as_user_without_secrets_in_file(name: str) -> None:
    cluster = ray_cluster_of(name)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        container = pod["containers"][0]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] in ("safety-ray:cpu", "safety-ray:gpu"), "no registry is named"
        assert [list(source) for source in container["envFrom"]] == [["secretRef"]]


def test_rayservice_serves_application_with_valid_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(
        yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"])
    )
    (application,) = schema.applications
    assert application.import_path == "serve.app:build_app"
    config = from_dict(ServeConfig, dict(application.args))
    assert config.api_keys.startswith("env:")
    assert needed_resource(config) == ("GPU", 1), "asks for a GPU while no node has one"


def test_rayjob_runs_command_with_shipped_config() -> None:
    command = read("rayjob.yaml")["spec"]["entrypoint"]
    found = re.search(r"python -m (jobs\.\w+) (\S+)", command)
    assert found is not None
    assert (ROOT / found[1].replace(".", "/")).with_suffix(".py").exists()
    assert (ROOT / found[2]).exists()


def test_slurm_script_calls_symmetric_run_as_ray_defines_it() -> None:
    from ray.scripts.symmetric_run import symmetric_run

    text = (DEPLOY / "slurm.sh").read_text().replace("\\\n", "")
    assert subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")]).returncode == 0
    assert 'exec ray symmetric-run "$@"' in text
    (call,) = re.findall(r'^srun .* bash -c "\$task" "\$first" "\$port" (.*)$', text, flags=re.MULTILINE)
    words, _, command = call.partition(" -- ")
    known = {option for parameter in symmetric_run.params for option in parameter.opts}
    assert {word for word in words.split() if word.startswith("--")} <= known
    assert command.strip().startswith('env RAY_ADDRESS="$first:$port" ')
    assert command.endswith(' "$@"')
    assert "RAY_AUTH_MODE=token" in text


def test_slurm_script_fails_if_ray_does_not_start(tmp_path: Path) -> None:
    """`ray symmetric-run` then ends with 0, and the command has not run."""
    tools = {"scontrol": "printf 'node1\\nnode2\\n'", "srun": 'shift 2; "$@"', "ray": "exit 0"}
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}:$PATH"\n')
    variables = {
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_PROCID": "0",
    }  # fmt: skip
    done = subprocess.run(
        [str(DEPLOY / "slurm.sh"), "true"], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "error: Ray did not start on node1; see the lines above\n")


def test_slurm_script_without_command_prints_usage() -> None:
    done = subprocess.run([str(DEPLOY / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


@pytest.mark.parametrize("flavour", ["cpu", "gpu"])
def test_dockerfile_installs_pins_as_user_without_addresses(flavour: str) -> None:
    text = (DEPLOY / f"{flavour}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines].count("FROM") == 1
    user, build = lines.index("USER ray"), text.index("scripts/setup.sh \\")
    assert text.index("USER ray") < build, "packages are installed by the user, not by root"
    assert not [line for line in lines[user + 1 :] if line.startswith("USER")]
    assert f"EXTRA={flavour}" in text
    assert "://" not in "\n".join(lines)
    assert not re.search(r"^(ARG|ENV)\b.*(TOKEN|KEY|SECRET|INDEX)", text, flags=re.MULTILINE)


def test_dockerignore_admits_only_what_setup_needs() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((ROOT / name).exists() for name in admitted)
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    needed = {path for path in cluster["file_mounts"].values() if not path.startswith("~")}
    assert needed | {"configs"} == admitted
    refused = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    for name in ("judge.key", ".env", ".env.local", "__pycache__"):
        assert any(fnmatch.fnmatch(name, rule) for rule in refused)


def uploaded(folder: Path, package: Path) -> set[str]:
    """Return the files that `ray job submit --working-dir FOLDER` uploads."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}


def test_working_dir_has_no_data_keys_or_runs(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    kept = ("jobs/score.py", "safety_ray/corpus/seeds/safe.jsonl", "configs/score/demo.yaml", "mine.yaml")
    left = (
        *("runs/a/record.json", "data/x.parquet", "x.warc.gz", "model/x.safetensors", "shared/y.jsonl"),
        *(
            ".env",
            "judge.key",
            "configs/judge.key",
            ".venv/bin/python",
            "jobs/__pycache__/x.pyc",
            "setup.log",
        ),
    )
    for name in (*kept, *left):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    assert uploaded(folder, tmp_path / "package.zip") == set(kept)


def test_working_dir_has_all_code_and_configs(tmp_path: Path) -> None:
    files = uploaded(ROOT, tmp_path / "package.zip")
    for top in ("safety_ray", "jobs", "serve", "configs"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in files
    assert (tmp_path / "package.zip").stat().st_size < 4 << 20
