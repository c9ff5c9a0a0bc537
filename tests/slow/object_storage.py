"""Fixtures: an S3-compatible server, and a cluster whose workers use it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from own_environment import beside
from ray_head import Head, start_head
from s3_server import BUCKET, S3Server

from jobs.corpus import SCHEMA, documents
from safety_ray.core import dataset

DOCUMENTS = 140


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A server that this process and the processes it starts use."""
    installed = str(beside(request.config.cache.mkdir("s3"), "cloud.txt", "tests.txt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        patch.setenv("PYTHONPATH", installed, prepend=os.pathsep)
        started = S3Server()
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started
        started.stop()


@pytest.fixture(scope="module")
def head(server: S3Server) -> Iterator[Head]:
    """A cluster whose workers use the server."""
    started = start_head(4)
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def answering(server: S3Server) -> Iterator[None]:
    """Answer all requests after each test."""
    yield
    server.refuse = lambda method, path, number: None


def corpus(server: S3Server) -> list[str]:
    """Store documents of the demo's corpus under pages/, and return their ids."""
    rows = documents(560, 0)[:: 560 // DOCUMENTS][:DOCUMENTS]
    for n in range(4):
        dataset.write_table(pa.Table.from_pylist(rows[n::4], SCHEMA), f"s3://{BUCKET}/pages/{n}.parquet")
    return sorted(row["id"] for row in rows)


def record_of(server: S3Server, stage: str) -> dict[str, Any]:
    (found,) = server.keys(f"{stage}/record.json")
    record: dict[str, Any] = json.loads(server.backend.get_object(BUCKET, found).value)
    return record
