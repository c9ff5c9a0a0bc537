"""Slow tests: each names the packages that it covers and prints its duration in seconds.

`pytest tests/slow --covers safety_ray.rewrite` runs the tests that cover safety_ray/rewrite.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head, start_head

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, left_out = config.getoption("--covers"), []
    for item in items:
        if HERE not in item.path.parents:
            continue
        packages = [name for mark in item.iter_markers("covers") for name in mark.args]
        if not packages:
            raise pytest.UsageError(f"{item.nodeid} names no package: pytest.mark.covers('safety_ray.…')")
        for name in packages:
            if importlib.util.find_spec(name) is None:
                raise pytest.UsageError(f"{item.nodeid} covers '{name}', which is no module")
        if wanted and not any(f"{name}.".startswith(f"{wanted}.") for name in packages):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Durations:
    """The seconds of each test, its fixtures included, in the output of the process that has the terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._seconds = config, Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.when == "teardown" and reporter is not None:
            reporter.write_line(f" {report.nodeid}: {self._seconds[report.nodeid]:.0f} s")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Durations(config))


@pytest.fixture
def head() -> Iterator[Head]:
    """A cluster of the test's own, whose nodes and drivers it may kill."""
    yield from started_head()


def started_head() -> Iterator[Head]:
    started = start_head(4)
    yield started
    started.stop()


@pytest.fixture
def lossy_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """A cluster whose nodes store small values as they store large ones, and so lose them if they are killed.

    The driver would have copies of values below 100 KB, which is the default of this setting.
    """
    monkeypatch.setenv("RAY_max_direct_call_object_size", "0")
    yield from started_head()
