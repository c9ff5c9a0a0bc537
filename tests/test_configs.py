"""Every shipped yaml parses; every job has a config class, a folder of configs and a test."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import JOBS
from jobs.pipeline import PipelineConfig, config_of, stages_of
from safety_ray.core.config import describe, dump, from_dict, load, not_identity
from serve.app import ServeConfig

ROOT = Path(__file__).resolve().parent.parent
YAMLS = sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file())
SERVED = "serve"


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def config_class(job: str) -> type:
    return ServeConfig if job == SERVED else JOBS[job][0]()[0]


@pytest.mark.parametrize("path", YAMLS, ids=names(YAMLS))
def test_shipped_yaml_matches_its_config_class(path: Path) -> None:
    job, *between = path.parent.relative_to(ROOT / "configs").parts
    assert path.suffix == ".yaml", "configs/ holds yaml files and nothing else"
    assert not between, "configs/<job>/<variant>.yaml: no folders below a job's"
    assert job in [*JOBS, SERVED], f"jobs/{job}.py does not exist"
    values = yaml.safe_load(path.read_text())
    if job == SERVED and "applications" in values:
        parse_serve_file(values)
    else:
        load(config_class(job), [str(path)])


def parse_serve_file(values: dict[str, Any]) -> None:
    """Check a file of `serve run` or `serve deploy` with Ray's schema, and the args with ServeConfig."""
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(values)
    for application in schema.applications:
        assert application.import_path.startswith("serve.app:")
        from_dict(config_class(SERVED), dict(application.args))


def test_demo_yaml_of_each_stage_is_that_of_the_demo_pipeline() -> None:
    pipeline = load(PipelineConfig, [str(ROOT / "configs/pipeline/demo.yaml")])
    for stage in stages_of(pipeline):
        path = ROOT / "configs" / stage.name / "demo.yaml"
        if path.exists():
            own, ignored = dump(load(stage.config, [str(path)])), not_identity(stage.config)
            made = dump(config_of(stage, pipeline))
            differing = [key for key in own if own[key] != made[key] and key not in ignored]
            assert differing == [], f"{path}: `make demo` uses other values, so the same folder is refused"


@pytest.mark.parametrize("job", JOBS)
def test_job_module_explains_itself_and_runs_main(job: str) -> None:
    tree = ast.parse((ROOT / "jobs" / f"{job}.py").read_text())
    assert ast.get_docstring(tree)
    assert ast.unparse(tree.body[-1]) == (
        f"if __name__ == '__main__':\n    from jobs.cli import main\n    main('{job}')"
    )


@pytest.mark.parametrize("job", JOBS)
def test_job_has_matching_config_folder_and_tests(job: str) -> None:
    cls = config_class(job)
    assert cls.__name__ == f"{job.capitalize()}Config"
    assert list((ROOT / "configs" / job).glob("*.yaml")), f"configs/{job}/ holds no yaml"
    run = JOBS[job][0]()[1].__name__
    tested = [path for path in (ROOT / "tests").rglob("*.py") if re.search(rf"\b{run}\(", path.read_text())]
    assert tested, f"no test calls {run}"


@pytest.mark.parametrize("job", [*JOBS, SERVED])
def test_job_help_documents_every_setting(job: str) -> None:
    if job == SERVED and not list((ROOT / "configs" / SERVED).glob("*.yaml")):
        pytest.skip("there is no served application")
    cls = config_class(job)
    frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert frozen
    assert hasattr(cls, "__slots__")
    assert not (cls.__doc__ or "").startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring"
    text = describe(cls)
    for key in leaves(cls):
        head, meaning = entry(text, key)
        assert meaning, f"{cls.__name__}.{key} has no help"
        assert head.endswith("(required)") or " = " in head


def leaves(cls: type, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings, without the code of `describe`."""
    hints = {field.name: field for field in dataclasses.fields(cls)}
    found: list[str] = []
    for name, field in hints.items():
        factory = field.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            found += leaves(factory, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name.rstrip('_')}")
    return found


def entry(text: str, key: str) -> tuple[str, str]:
    lines = text.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith(f"  {key}: ")]
    return lines[place], lines[place + 1].strip()


def test_job_help_runs_from_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.corpus", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    head, meaning = entry(done.stdout, "documents")
    assert head == "  documents: int = 4000"
    assert "number of documents" in meaning
    assert entry(done.stdout, "output")[0] == "  output: str  (required)"
