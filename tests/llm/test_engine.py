"""Engines: every row gets a reply or an error, and invalid settings are reported before the start."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from endpoint import Endpoint, completion
from without_ray import answered

from safety_ray.core.errors import UserError, user_error_in
from safety_ray.core.ports import free_port
from safety_ray.llm import engine
from safety_ray.llm.engine import EngineConfig

ROWS = pa.table(
    {
        "id": ["a", "b", "c"],
        "messages": pa.array([[{"role": "user", "content": text}] for text in ("one", "two", "three")]),
        "small": pa.array([1, None, 3], pa.int8()),
        "probs": pa.array([[0.5], [], None], pa.list_(pa.float32())),
        "nothing": pa.nulls(3, pa.string()),
        "reply": ["old", "old", "old"],
    }
)


def openai_config(url: str, **more: Any) -> EngineConfig:
    return EngineConfig(kind="openai", model="m", base_url=url, api_key_env="", **more)


def echo(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    return 200, completion(body["messages"][-1]["content"].upper())


def ask(config: EngineConfig, rows: pa.Table = ROWS) -> list[dict[str, Any]]:
    """Return the rows of `answered`."""
    found: list[dict[str, Any]] = answered(config, rows).to_pylist()
    return found


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """A file with the key sk-secret, as a cluster mounts it."""
    (tmp_path / "key").write_text("sk-secret\n")
    return str(tmp_path / "key")


def test_template_engine_preserves_columns_and_types(ray_cluster: None) -> None:
    def write(row: dict[str, Any]) -> str:
        if row["id"] == "b":
            raise ValueError("no idea")
        return str(row["messages"][0]["content"]) * 2

    config = EngineConfig(kind="template")
    engine.check(config)
    done = engine.processor(config, write)(ray.data.from_arrow(ROWS))
    out = pa.concat_tables(ray.get(done.to_arrow_refs())).sort_by("id")
    assert out.column("reply").to_pylist() == ["oneone", None, "threethree"]
    assert out.column("engine_error").to_pylist() == [None, "no idea", None]
    kept = [name for name in ROWS.column_names if name != "reply"]
    assert out.select(kept).equals(ROWS.select(kept))


def test_openai_engine_retries_errors_and_preserves_columns() -> None:
    with Endpoint(echo, first=[429, 503]) as endpoint:
        config = openai_config(endpoint.url, concurrency=3)
        engine.check(config)
        out = answered(config, ROWS)
    assert out.column("reply").to_pylist() == ["ONE", "TWO", "THREE"]
    assert out.column("engine_error").null_count == 3
    kept = [name for name in ROWS.column_names if name != "reply"]
    assert out.select(kept).equals(ROWS.select(kept))
    assert all("Authorization" not in r["headers"] for r in endpoint.requests)


def test_openai_engine_limits_concurrent_requests() -> None:
    open_now, most = 0, 0
    three = threading.Barrier(3)  # no request is answered before three are open

    def gathered(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        three.wait(60)
        open_now -= 1
        return echo(body, headers)

    rows = pa.concat_tables([ROWS.select(["id", "messages"])] * 4)
    with Endpoint(gathered) as endpoint:
        found = ask(openai_config(endpoint.url, concurrency=3, retries=0), rows=rows)
    assert all(row["reply"] for row in found)
    assert most == 3


def test_openai_engine_derives_seed_from_row_id() -> None:
    with Endpoint(echo) as endpoint:
        for part in (ROWS, ROWS.take([2, 0])):
            ask(openai_config(endpoint.url, seed=4, seeded=True), rows=part)
    seeds: dict[str, set[int]] = {}
    for request in endpoint.requests:
        seeds.setdefault(request["body"]["messages"][0]["content"], set()).add(request["body"]["seed"])
    assert len(seeds) == 3
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 3


@pytest.mark.parametrize("settings", [{}, {"seeded": True, "temperature": 0.0}])
def test_openai_engine_sends_no_seed_unless_it_samples(settings: dict[str, Any]) -> None:
    with Endpoint(echo) as endpoint:
        ask(openai_config(endpoint.url, **settings))
    assert len(endpoint.requests) == 3
    assert not any("seed" in request["body"] for request in endpoint.requests)


def test_openai_engine_reports_row_errors_without_api_key(key_file: str) -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        content = body["messages"][0]["content"]
        if content == "one":
            return 400, {"error": {"message": f"too long; you sent {headers['Authorization']}"}}
        return 200, completion("cut he", "length") if content == "two" else completion("")

    with Endpoint(answer) as endpoint:
        rows = ask(openai_config(endpoint.url, max_tokens=7, api_key_file=key_file))
    assert {r["headers"]["Authorization"] for r in endpoint.requests} == {"Bearer sk-secret"}
    assert [row["reply"] for row in rows] == [None] * 3
    assert "HTTP 400" in rows[0]["engine_error"]
    assert "too long" in rows[0]["engine_error"]
    assert "sk-secret" not in str(rows)
    assert rows[1]["engine_error"] == "the reply was truncated at engine.max_tokens=7"
    assert "no text" in rows[2]["engine_error"]


def test_openai_engine_reports_error_after_last_retry() -> None:
    with Endpoint(echo, first=[500] * 20) as endpoint:
        rows = ask(openai_config(endpoint.url, retries=1), rows=ROWS.slice(0, 1))
    assert len(endpoint.requests) == 2
    assert "HTTP 500" in rows[0]["engine_error"]


def test_openai_engine_rate_limit_counts_retries() -> None:
    rows = pa.concat_tables([ROWS.select(["id", "messages"])] * 2)
    sent: list[float] = []
    begun = time.monotonic()

    def timed(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        sent.append(time.monotonic())
        return (500, {"error": {"message": "later"}}) if len(sent) == 1 else echo(body, headers)

    with Endpoint(timed) as endpoint:
        found = ask(openai_config(endpoint.url, concurrency=6, requests_per_minute=120), rows=rows)
    assert all(row["reply"] for row in found)
    assert len(sent) == 7
    assert sent[-1] - begun > 0.99 * 6 * 60 / 120


def test_openai_engine_reports_timeout_of_hung_request() -> None:
    over = threading.Event()

    def hung(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if body["messages"][-1]["content"] == "two":
            over.wait(600)
        return echo(body, headers)

    with Endpoint(hung) as endpoint:
        rows = ask(openai_config(endpoint.url, timeout_s=3.0, retries=1, concurrency=3))
        over.set()
    assert [row["reply"] for row in rows] == ["ONE", None, "THREE"]
    assert "APITimeoutError" in rows[1]["engine_error"]
    assert len(endpoint.requests) == 4


def test_openai_engine_ends_the_stage_while_the_endpoint_is_gone() -> None:
    with (
        Endpoint(lambda body, headers: (503, {"error": {"message": "sk-secret"}})) as endpoint,
        pytest.raises(UserError, match=r"answers with HTTP 503, after 1 retries; the same command resumes"),
    ):
        ask(openai_config(endpoint.url, retries=1))
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 cannot be reached, after 0 retries"):
        ask(openai_config(endpoint.url, retries=0))


@pytest.mark.parametrize(
    ("text", "finish_reason", "reply", "error"),
    [
        ("ok \ud83d end", "stop", "ok ? end", None),
        ("The beginning of", "content_filter", None, "a content filter of the endpoint ended the reply"),
        ("The beginning of", "length", None, "the reply was truncated at engine.max_tokens="),
    ],
)
def test_openai_engine_accepts_whole_replies_only(
    text: str, finish_reason: str, reply: str | None, error: str | None
) -> None:
    with Endpoint(lambda body, headers: (200, completion(text, finish_reason))) as endpoint:
        rows = ask(openai_config(endpoint.url))
    assert {row["reply"] for row in rows} == {reply}
    assert all(str(row["engine_error"]).startswith(str(error)) for row in rows)


@pytest.mark.parametrize(
    ("status", "says"), [(401, "refuses the key"), (403, "refuses"), (404, "no model 'm'")]
)
def test_openai_engine_raises_user_error_for_fatal_status(status: int, says: str, key_file: str) -> None:
    with (
        Endpoint(lambda body, headers: (status, {"error": {"message": "sk-secret"}})) as endpoint,
        pytest.raises(UserError, match=says) as caught,
    ):
        ask(openai_config(endpoint.url, api_key_file=key_file))
    assert "sk-secret" not in str(caught.value)


def test_openai_engine_reads_key_where_it_runs(monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> None:
    monkeypatch.setenv("DRIVERS_KEY", "sk-secret")  # the cluster's processes have been started without it
    config = EngineConfig(
        kind="openai", model="m", base_url="http://127.0.0.1:1/v1", api_key_env="DRIVERS_KEY"
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011
        engine.processor(config)(ray.data.from_arrow(ROWS)).take_all()
    assert "DRIVERS_KEY has no key for http://127.0.0.1:1/v1 on " in str(user_error_in(caught.value))


def test_engine_check_rejects_unusable_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UserError, match=r"cannot be reached"):
        engine.check(openai_config(url))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    keyed = EngineConfig(kind="openai", model="m", base_url=url, api_key_env="NO_SUCH_KEY")
    with pytest.raises(UserError, match="NO_SUCH_KEY has no key"):
        engine.check(keyed)
    monkeypatch.setenv("NO_SUCH_KEY", "sk-secret")
    with Endpoint(echo, models=401) as endpoint:
        config = EngineConfig(kind="openai", model="m", base_url=endpoint.url, api_key_env="NO_SUCH_KEY")
        with pytest.raises(UserError, match="refuses the key in NO_SUCH_KEY") as caught:
            engine.check(config)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read on"), (" \n", "is empty")])
def test_engine_check_rejects_unusable_key_file(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(UserError, match=f"engine.api_key_file=.*key {says}"):
        engine.check(openai_config("http://127.0.0.1:1/v1", api_key_file=str(tmp_path / "key")))


def test_engine_check_rejects_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the hub's cache, and the hub is offline"):
        engine.check(EngineConfig(kind="vllm", model="no-owner/no-model"))
    with pytest.raises(UserError, match=r"no config\.json"):
        engine.check(EngineConfig(kind="vllm", model=str(tmp_path)))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "vllm"}, "engine.model"),
        ({"kind": "openai", "model": "m"}, "engine.base_url"),
        ({"batch_size": 0}, "at least 1"),
        ({"temperature": -1.0}, "temperature"),
        ({"retries": -1}, "retries"),
        ({"requests_per_minute": -1.0}, "requests_per_minute"),
        ({"kind": "vllm", "model": "m", "concurrency": 3, "max_concurrency": 2}, "max_concurrency=2"),
        ({"max_concurrency": 2}, "for engine.kind=vllm"),
        ({"placement_group": {"bundles": [{"GPU": 1}]}}, "for engine.kind=vllm"),
    ],
)
def test_engine_config_rejects_invalid_settings(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        EngineConfig(**values)


def test_template_engine_raises_user_error_without_function() -> None:
    with pytest.raises(UserError, match="no language model"):
        engine.processor(EngineConfig())
