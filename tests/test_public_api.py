"""The names of `safety_ray`: each imports, has a docstring, and loads heavy packages only on use."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import safety_ray

HEAVY = ("torch", "ray", "vllm", "transformers", "numpy", "pyarrow")


@pytest.mark.parametrize("name", safety_ray.__all__)
def test_public_name_imports_and_has_docstring(name: str) -> None:
    value = getattr(safety_ray, name)
    docstring = inspect.getdoc(value)
    assert docstring
    assert not docstring.startswith(f"{name}("), "a dataclass without a docstring of its own"
    assert name in dir(safety_ray)
    assert f" {name}" in (safety_ray.__doc__ or ""), "the module's docstring lists the public API"


def test_public_api_has_no_other_name() -> None:
    with pytest.raises(AttributeError, match="module 'safety_ray' has no attribute 'nothing'"):
        _ = safety_ray.nothing
    with pytest.raises(ImportError):
        from safety_ray import nothing  # noqa: F401


def test_import_safety_ray_loads_no_heavy_package() -> None:
    code = f"import sys, safety_ray; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_api_does_not_import_ray() -> None:
    code = (
        "import sys, safety_ray\nfor name in safety_ray.__all__: getattr(safety_ray, name)\n"
        "print('ray' in sys.modules, 'vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
