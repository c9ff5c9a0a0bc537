"""requirements/ pins every dependency of pyproject.toml, with hashes."""

from __future__ import annotations

import re
import shutil
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def entries(name: str) -> list[tuple[str, list[str]]]:
    """Return each requirement of a list with its hashes."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    split = [line.split(" --hash=sha256:") for line in lines]
    return [(pin.strip(), [digest.strip() for digest in digests]) for pin, *digests in split]


def pins(name: str) -> list[str]:
    return [pin for pin, _ in entries(name)]


HASHED = (
    *("cpu.txt", "torch-cpu.txt", "torch-cuda.txt", "gpu.txt"),
    *("cloud.txt", "fp8.txt", "lm-eval.txt", "small-model.txt", "tests.txt", "uv.txt"),
)


@pytest.mark.parametrize("name", HASHED)
def test_requirements_carry_hash_of_every_package(name: str) -> None:
    assert {path.name for path in (ROOT / "requirements").iterdir()} == set(HASHED)
    assert entries(name)
    for pin, digests in entries(name):
        assert digests, f"{pin} has no hash: run `make pins`"
        assert len(digests) == len(set(digests)), pin
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests), pin


def test_requirements_hold_torch_builds_of_one_version() -> None:
    (torch,) = [pin for pin in pins("cpu.txt") if pin.startswith("torch==")]
    cpu = [Requirement(pin) for pin in pins("torch-cpu.txt")]
    assert {str(pin.specifier) for pin in cpu} == {f"{torch.removeprefix('torch')}+cpu"}
    for python, machine in product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64")):
        place = {"python_version": python, "platform_machine": machine}
        assert sum(pin.marker is not None and pin.marker.evaluate(place) for pin in cpu) == 1, place
        # uv gets both lists at once: no package twice.
        both = [Requirement(pin) for pin in [*pins("cpu.txt"), *pins("torch-cuda.txt")]]
        names = [pin.name for pin in both if pin.marker is None or pin.marker.evaluate(place)]
        assert len(names) == len(set(names)), place


@pytest.mark.parametrize(("name", "extras"), [("cpu.txt", ("cpu", "dev")), ("gpu.txt", ("gpu", "dev"))])
def test_requirements_pin_every_dependency_exactly(name: str, extras: tuple[str, ...]) -> None:
    """`make pins` was run after pyproject.toml changed: set-up installs the pins and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    pinned = {canonicalize_name(Requirement(line).name): Requirement(line).specifier for line in pins(name)}
    for line in wanted:
        requirement = Requirement(line)
        key = canonicalize_name(requirement.name)
        assert key in pinned, f"{key} has no pin: run `make pins`"
        (version,) = [specifier.version for specifier in pinned[key]]
        assert requirement.specifier.contains(version), line
    for line in pins(name):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+( ; .+)?", line), (
            f"no exact, portable pin: {line}"
        )


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("cloud.txt", "cpu.txt"),
        ("cloud.txt", "gpu.txt"),
        ("lm-eval.txt", "cpu.txt"),
        *product(["tests.txt"], ["cpu.txt", "cloud.txt"]),
    ],
)
def test_further_requirements_replace_no_package(more: str, name: str) -> None:
    """The next set-up would put the other version back."""
    assert not {Requirement(pin).name for pin in pins(more)} & {Requirement(pin).name for pin in pins(name)}


def test_requirements_exclude_torchvision_torchaudio_torchcodec() -> None:
    unwanted = {"torchvision", "torchaudio", "torchcodec"}
    assert not unwanted & {canonicalize_name(Requirement(line).name) for line in pins("cpu.txt")}
    if shutil.which("nvidia-smi") is None:
        from importlib.metadata import distributions

        assert not unwanted & {canonicalize_name(found.metadata["Name"]) for found in distributions()}
