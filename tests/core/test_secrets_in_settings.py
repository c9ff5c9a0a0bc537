"""Settings that contain a secret are refused, without repeating it."""

from __future__ import annotations

import pytest

from jobs.ingest import IngestConfig
from jobs.label import LabelConfig
from jobs.pipeline import PipelineConfig
from safety_ray.core.config import load
from safety_ray.core.errors import UserError

ENGINE = ["documents=a", "output=b", "engine.kind=openai", "engine.model=m"]


@pytest.mark.parametrize(
    ("cls", "words", "key"),
    [
        (IngestConfig, ["input=https://me:hunter2@host/pages", "output=b"], "input"),
        (
            IngestConfig,
            ["input=https://host/a.warc?X-Amz-Date=1&X-Amz-Signature=hunter2", "output=b"],
            "input",
        ),
        (LabelConfig, [*ENGINE, "engine.base_url=http://:hunter2@host/v1"], r"engine\.base_url"),
        (
            LabelConfig,
            [
                *ENGINE,
                "engine.base_url=http://h/v1",
                "engine.engine_args.extra_headers.Authorization=hunter2",
            ],
            r"engine\.engine_args\.extra_headers\.Authorization",
        ),
        (
            PipelineConfig,
            ["output=b", "rewrite.engine.engine_args.hf_token=hunter2"],
            r"rewrite\.engine\..*hf_token",
        ),
    ],
)
def test_config_refuses_secret_in_setting(cls: type, words: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: .* records; set .* environment variable") as refused:
        load(cls, words)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "path", ["s3://bucket/a:b/c@d", "https://host:8080/a@b", "runs/a@b:c", "http://h/x?signature=no&page=1"]
)
def test_config_accepts_paths_that_look_similar(path: str) -> None:
    assert load(IngestConfig, [f"input={path}", "output=b"]).input == path
