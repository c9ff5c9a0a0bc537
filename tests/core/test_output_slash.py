"""A slash at the end of `output` does not come into the names of files."""

from __future__ import annotations

import pytest

from jobs.ingest import IngestConfig
from safety_ray.core.config import from_dict, load


@pytest.mark.parametrize(
    ("output", "expected"), [("s3://bucket/run/", "s3://bucket/run"), ("runs/a//", "runs/a"), ("/", "/")]
)
def test_config_load_removes_slash_after_output(output: str, expected: str) -> None:
    assert load(IngestConfig, ["input=in", f"output={output}"]).output == expected
    assert from_dict(IngestConfig, {"input": "in", "output": output}).output == expected
