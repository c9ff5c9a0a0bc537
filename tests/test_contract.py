"""Import contracts, and text that no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "safety_ray"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = sorted(path.stem for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__")
HEAVY = ("ray", "torch", "vllm", "transformers")
MAY_IMPORT_RAY = (
    *(
        "core/cluster.py",
        "core/dataset.py",
        "core/exchange.py",
        "core/metrics.py",
        "core/resume.py",
        "core/row_sink.py",
    ),
    *("llm/", "compat/"),
)
LONGEST_FILE = 400


def test_import_contract_passes_lint_imports() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def imported(tree: ast.AST) -> set[str]:
    """Return the top-level packages that the nodes of `tree` import, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES])
def test_import_contract_limits_ray_in_library(path: Path) -> None:
    tree = ast.parse(path.read_text())
    statements = [node for node in tree.body if not is_type_checking(node)]
    uses_ray = "ray" in imported(ast.Module(statements, []))
    allowed = str(path.relative_to(PACKAGE)).startswith(MAY_IMPORT_RAY)
    assert allowed or not uses_ray, f"in the library, only {', '.join(MAY_IMPORT_RAY)} import ray"
    if path.parent.name == "compat":  # imported by the code that needs Ray, and by no other
        return
    top = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "ray" not in imported(ast.Module(list(top), [])), "import ray inside the function that needs it"


def test_import_contract_excludes_heavy_libraries_from_base() -> None:
    assert {"config", "records", "artifact", "tag", "dataset", "progress", "job"} < set(CORE)
    code = (
        f"import sys, safety_ray, {', '.join(f'safety_ray.core.{name}' for name in CORE)}\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("floor", ["safety_ray", "jobs", "serve", "benchmarks", "tests"])
def test_source_files_are_short(floor: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / floor).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_source_files_import_no_module_by_string() -> None:
    found = [
        str(path.relative_to(ROOT))
        for floor in ("safety_ray", "jobs", "serve")
        for path in (ROOT / floor).rglob("*.py")
        if re.search(r"import_module|__import__\(", path.read_text())
    ]
    assert found == []


def tracked_files() -> list[Path]:
    """Return the files of the checkout except those in .gitignore, whose folders end in a slash."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = {line.rstrip("/") for line in lines if line and not line.startswith("#")} | {".git"}

    def walk(folder: Path) -> list[Path]:
        found: list[Path] = []
        for path in sorted(folder.iterdir()):
            if any(path.match(pattern) for pattern in ignored) or path.is_symlink():
                continue
            found += walk(path) if path.is_dir() else [path]
        return found

    return walk(ROOT)


def test_tracked_files_exclude_package_registry_urls() -> None:
    # Put together from parts, so that this file passes its own test.
    dot = "."
    hosts = [
        dot.join(parts)
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("wheels", "vllm", "ai"),
            ("pypi", "nvidia", "com"),
            ("conda", "anaconda", "org"),
            ("mirrors", "aliyun", "com"),
            ("pypi", "tuna", "tsinghua", "edu", "cn"),
            ("jfrog", "io"),
            ("registry", "npmjs", "org"),
        )
    ]
    index = re.compile(r"https?://\S+/simple\b|file://\S*pypi")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked_files()
        if path != Path(__file__).resolve()
        for text in [path.read_bytes().decode("utf-8", "replace")]
        for word in [*(host for host in hosts if host in text), *index.findall(text)]
    ]
    assert found == []
    assert not any(host in Path(__file__).read_text() for host in hosts)


def test_tracked_files_skip_gitignored_paths() -> None:
    found = {str(path.relative_to(ROOT)) for path in tracked_files()}
    assert {"tests/test_contract.py", "pyproject.toml", ".ci/run"} <= found
    assert not [
        name for name in found if name.startswith((".venv/", ".git/", "runs/")) or "__pycache__" in name
    ]


def test_test_files_have_unique_names() -> None:
    # tests/ has no packages, so pytest imports every test file as a top-level module.
    paths = [path for path in tracked_files() if ROOT / "tests" in path.parents]
    names = Counter(path.name for path in paths if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
