"""Settings that contain a secret are refused, without repeating it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.ingest import IngestConfig
from jobs.label import LabelConfig
from jobs.pipeline import PipelineConfig
from safety_ray.core.config import load
from safety_ray.core.errors import UserError
from serve.settings import ServeConfig

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


def test_config_refuses_secret_in_environment_variable_of_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGES", "https://me:hunter2@host/pages")
    config = tmp_path / "ingest.yaml"
    config.write_text("input: ${oc.env:PAGES}\noutput: out\n")
    with pytest.raises(UserError, match=r"^input: this URL contains") as refused:
        load(IngestConfig, [str(config)])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hunter2@host/pages",
        "HTTP://hunter2@host",
        "git+https://hunter2@host/repository.git",
        "simplecache::https://hunter2@host/a.warc",
        "ftp://me:hunter2@host/a.warc",
        "https://host/a?AWSAccessKeyId=me&Expires=1&Signature=hunter2",
        "https://host/a?GoogleAccessId=me&Expires=1&Signature=hunter2",
        "https://host/a?X-Amz-Security-Token=hunter2",
        "https://host/a?X-Amz-Credential=hunter2",
        "https://host/a?x-goog-signature=hunter2",
        "https://host/a?sv=1&sig=hunter2",
        "https://host/a?page=1&token=hunter2",
        "https://host/a#access_token=hunter2",
        "https://host/a?client_id=me&client_secret=hunter2",
        "https://host/a?apiKey=hunter2",
        "https://host/a?key=hunter2hunter2hunter2",
    ],
)
def test_config_refuses_url_with_credentials(url: str) -> None:
    with pytest.raises(UserError, match=r"^input: this URL .* records; set .* variables") as refused:
        load(IngestConfig, [f"input={url}", "output=b"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "token",
            "openai_api_key",
            "OPENAI_API_KEY",
            "apiKey",
            "aws_secret_access_key",
            "aws_session_token",
        ),
        *("client_secret", "private_key", "account_key", "db_password", "accessToken"),
        *("extra_headers.Cookie", "extra_headers.X-Auth-Token", "extra_headers.Proxy-Authorization"),
        *("extra_headers.X-Goog-Api-Key", "extra_headers.x-api-key", "a.b.c.token"),
    ],
)
def test_config_refuses_key_with_the_name_of_a_secret(name: str) -> None:
    key = f"engine.engine_args.{name}"
    for value in ("hunter2", "[hunter2]"):  # a text or a list of texts
        with pytest.raises(UserError, match=rf"^{re.escape(key)}: a secret .* records; set") as refused:
            load(LabelConfig, [*ENGINE, f"{key}={value}"])
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hf_token", "true", True),
        ("token", "false", False),
        ("characters_per_token", "4.3", 4.3),
        ("token", "", ""),
        ("token", "null", None),
        ("max_tokens", "64", 64),
        ("stop_tokens", "[a,b]", ["a", "b"]),
        ("tokenizer", "runs/tokenizer", "runs/tokenizer"),
        ("api_key_env", "MY_KEY", "MY_KEY"),
        ("api_key_file", "/run/secrets/key", "/run/secrets/key"),
        ("private_key_path", "/run/secrets/key", "/run/secrets/key"),
        ("api_key", "env:MY_KEY", "env:MY_KEY"),
        ("client_secret", "file:/run/secrets/key", "file:/run/secrets/key"),
        ("pad_token", "<pad>", "<pad>"),
        ("bos_token", "begin", "begin"),
        ("image_token", "picture", "picture"),
        ("cls_token", "'[CLS]'", "[CLS]"),
        ("next_token", "a", "a"),
        ("prompt_cache_key", "shared", "shared"),
        ("sender_email", "a@b.com", "a@b.com"),
        ("token_type", "word", "word"),
    ],
)
def test_config_accepts_keys_that_look_similar(name: str, value: str, expected: object) -> None:
    words = [*ENGINE, "engine.base_url=http://h/v1", f"engine.engine_args.{name}={value}"]
    config = load(LabelConfig, words)
    assert config.engine.engine_args[name] == expected


def test_config_accepts_location_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "api_key"
    file.write_text("hunter2hunter2hunter2")
    monkeypatch.setenv("API_KEY", file.read_text())
    for location in ("env:API_KEY", str(file)):
        assert load(ServeConfig, ["model=m", f"api_keys={location}"]).api_keys == location
    for name, value in (("api_key_env", "API_KEY"), ("api_key_file", str(file))):
        words = [*ENGINE, "engine.base_url=http://h/v1", "engine.api_key_env=", f"engine.{name}={value}"]
        assert getattr(load(LabelConfig, words).engine, name) == value


@pytest.mark.parametrize(
    "path",
    [
        *("s3://bucket/a:b/c@d", "https://host:8080/a@b", "runs/a@b:c", "http://h/x?signature=no&page=1"),
        *("ssh://git@host/pages", "hdfs://me@host:8020/pages", "abfss://container@account.host/pages"),
        *("https://host/@me/pages", "https://host?mail=a@b.com", "https://host/#a@b.com", "a@b.com"),
        *("https://host/a?key=en", "https://host/a?key=crawl/2024/segments/00001.warc.gz"),
        *(
            "https://host/a?page_token=b",
            "https://host/a?max_tokens=1&tokenizer=b",
            "https://host/a?token=&b=1",
        ),
        *("https://host/a?X-Amz-Date=1", "https://host/a?AWSAccessKeyId=me", "runs/token=a/part"),
    ],
)
def test_config_accepts_paths_that_look_similar(path: str) -> None:
    assert load(IngestConfig, [f"input={path}", "output=b"]).input == path
