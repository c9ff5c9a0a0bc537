"""What all tests share: one Ray for the whole run, and where real data lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # tests read them; Ray's default is 10 s


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `pytest -n 2 --dist loadgroup` a file stays whole, and so do all tests of the endpoint."""
    for item in items:
        folder = Path(__file__).parent / "serve"
        group = folder if folder in item.path.parents else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray on this machine, started once."""
    import ray

    from safety_ray import dataset, job

    job.quiet()
    dataset.start()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets named by SAFETY_RAY_DATA; tests that use it skip without."""
    path = Path(os.environ.get("SAFETY_RAY_DATA", ""))
    if not os.environ.get("SAFETY_RAY_DATA") or not path.is_dir():
        pytest.skip("SAFETY_RAY_DATA names no folder")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped corpus, one document a seed: a finished folder of labelled documents."""
    from safety_ray.corpus.seeds import load_seeds
    from safety_ray.corpus.stage import CorpusConfig, run

    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    run(CorpusConfig(output=str(folder), documents=len(load_seeds())))
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A harm classifier fitted on the shipped corpus with the packaged encoder."""
    from safety_ray.score.fit import FitConfig, run

    folder = tmp_path_factory.mktemp("classifier") / "fit"
    run(FitConfig(labelled=str(corpus), output=str(folder), windows=1))
    return folder
