"""What all tests share: one Ray for the whole run, and where real data lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slow_ray import patient

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # tests read them; Ray's default is 10 s


_TESTS = Path(__file__).parent
_LONGEST = (
    "serve",
    "test_pipeline.py",
    "rewrite",
    "score",
    "train",
)  # first, so that no worker waits at the end


def _group(nodeid: str) -> str:
    """What stays in one process: all tests of the endpoint, of which a machine holds one, else a file."""
    path = nodeid.split("::")[0]
    return "tests/serve" if path.startswith("tests/serve/") else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(_TESTS).parts[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `pytest -n 2` groups stay whole. xdist's own marker for them does nothing with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray on this machine, started once."""
    import ray

    from safety_ray import cluster, job

    job.quiet()
    patient()
    cluster.start()
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
