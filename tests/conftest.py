"""Shared fixtures: a Ray cluster per test process, the folder of real data, the corpus and a classifier."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_head import Head, start_head

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# Two test processes share two cores, and threads that spin while waiting for each other would use both.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# One token for all clusters of a run, set before Ray is imported; a token in the home directory is not used.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray Data starts an actor that collects them
# For tests of metrics; Ray's default is 10 s. A report takes 40 ms of CPU time on each cluster.
os.environ.setdefault("RAY_metrics_report_interval_ms", "5000")


_TESTS = Path(__file__).parent
# Run first, so that no process idles at the end; the metrics tests run before other requests to the endpoint.
_LONGEST = (
    "serve/test_endpoint_metrics.py", "serve", "rewrite", "jobs/test_pipeline.py", "train/test_stage.py",
    "train/test_validation.py", "llm/test_engine_vllm.py", "jobs", "judge", "classifier", "train",
    "slow/test_job_submit.py", "slow/test_score_killed.py", "slow/train/test_train_preempted.py",
    "slow/serve",
)  # fmt: skip
_TOGETHER = {
    "the endpoint": ("tests/serve/",),
    "a training on Ray": ("tests/train/test_stage.py", "tests/train/test_validation.py"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--covers", default="", help="slow tests of this package only, e.g. safety_ray.train")


def _group(nodeid: str) -> str:
    """Return the group that runs in one process: a file, or files that share a slow fixture."""
    path = nodeid.split("::")[0]
    return next((name for name, paths in _TOGETHER.items() if path.startswith(paths)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(_TESTS).as_posix()
        return next((n for n, start in enumerate(_LONGEST) if path.startswith(start)), len(_LONGEST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep groups in one process with `pytest -n 2`; xdist's group marker has no effect with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Head]:
    """A real Ray cluster on this machine, started once per process; jobs started by tests also use it."""
    import ray

    from safety_ray.core import cluster, job

    job.quiet()
    head = start_head(cluster.SLOTS)
    os.environ["RAY_ADDRESS"] = head.address
    cluster.start()
    yield head
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]
    head.stop()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets named by SAFETY_RAY_DATA; without it, tests that need it are skipped."""
    path = Path(os.environ.get("SAFETY_RAY_DATA", ""))
    if not os.environ.get("SAFETY_RAY_DATA") or not path.is_dir():
        pytest.skip("SAFETY_RAY_DATA names no folder")
    return path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all test processes of this run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def corpus(shared: Path) -> Path:
    """The shipped corpus with one document per seed: a finished folder of labelled documents."""
    from jobs.corpus import CorpusConfig, make_corpus
    from safety_ray.corpus.seeds import load_seeds

    folder = shared / "corpus"
    with (shared / "corpus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_corpus(CorpusConfig(output=str(folder), documents=len(load_seeds())))
    return folder


@pytest.fixture(scope="session")
def classifier(shared: Path, corpus: Path) -> Path:
    """A harm classifier fitted on the shipped corpus with the packaged encoder."""
    from jobs.fit import FitConfig, fit_classifier

    folder = shared / "classifier"
    with (shared / "classifier.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first test process creates it
        fit_classifier(FitConfig(labelled=str(corpus), output=str(folder), windows=1))
    return folder
