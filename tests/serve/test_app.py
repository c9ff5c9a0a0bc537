"""Mistakes that `serve.app` reports before anything starts, each in one sentence with exit code 2."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from known_model import POSITIONS, log_table, small_tokenizer, write_model
from ray.llm._internal.serve import constants
from ray.serve.deployment import Application

from safety_ray.compat import versions
from safety_ray.core import cluster, device
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.core.tag import CHAT_END, CHAT_START, END_OF_TEXT
from serve import app
from serve.app import ServeConfig, answers_in_replica, build_app, check_listens_here, check_port, main
from serve.build import deployment_config, engine_args, public_settings
from serve.model import check_model, model_folder
from serve.options import parse_options


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    return output


def test_serve_app_reports_missing_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "model folder '/nowhere' does not exist" in error_of(["model=/nowhere"], capsys)
    assert f"'{tmp_path}' contains no model" in error_of([f"model={tmp_path}"], capsys)


def test_serve_app_reports_missing_tokenizer(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    shutil.copy(model / "config.json", tmp_path)
    assert f"the tokenizer of '{tmp_path}' cannot be read" in error_of([f"model={tmp_path}"], capsys)


def test_serve_app_reports_unfinished_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "inputs": {}}))
    assert "is not finished" in error_of([f"model={tmp_path}"], capsys)


def test_model_folder_resolves_export_of_finished_output(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "inputs": {}}))
    (tmp_path / "record.json").write_text("{}")
    assert model_folder(str(tmp_path)) == str(tmp_path / "model")
    assert model_folder(str(model)) == str(model)


def test_serve_app_reports_port_in_use(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = error_of([f"model={model}", f"port={port}"], capsys)
        assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in error
    check_port("127.0.0.1", port)


def test_serve_app_reports_unavailable_host(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert "on 203.0.113.9 cannot be used" in error_of([f"model={model}", "host=203.0.113.9"], capsys)


def test_build_app_reports_added_tokens_when_tag_missing(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(split_special_tokens=False, special=(END_OF_TEXT, CHAT_START, CHAT_END))
    folder = write_model(tmp_path, tokenizer, log_table(tokenizer, tag="q"))
    with pytest.raises(
        UserError, match=r"no harmfulness tag '<\|harmful\|>'; its added tokens are: <\|endoftext\|>"
    ):
        build_app({"model": str(folder)})


def test_build_app_rejects_ordinary_token_as_tag(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(split_special_tokens=False)
    tokenizer.add_tokens(["<|bad|>"])
    folder = write_model(tmp_path, tokenizer, log_table(tokenizer))
    with pytest.raises(UserError, match="is not a special token"):
        build_app({"model": str(folder), "tag": "<|bad|>"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "kill"}, "mode"),
        ({"threshold": 0}, "a probability above 0"),
        ({"mode": "off", "allow_off": False}, "does not allow safety mode off"),
        ({"mode": "safebeam", "beam_size": 10}, "is 40, which exceeds this endpoint's limit of 32"),
        ({"drop_share": 1.0}, "drop_share=1.0 must be at least 0"),
        ({"api_keys": "/nowhere"}, "API keys cannot be read from '/nowhere'"),
        ({"max_concurrent": -1}, "max_concurrent must not be negative"),
        ({"port": 70000}, "port must be 1 to 65535"),
        ({"route_prefix": "v2"}, "route_prefix must begin with '/'"),
        ({"min_replicas": 2}, "at most max_replicas"),
        ({"max_model_len": 0}, "max_model_len must be above 0"),
        ({"http": "replica", "max_replicas": 2}, "http=replica needs max_replicas=1 and route_prefix=/"),
        ({"http": "replica", "route_prefix": "/a"}, "http=replica needs max_replicas=1 and route_prefix=/"),
        ({"http": "replica", "autoscaling": {"max_replicas": 2}}, r"autoscaling\.max_replicas: remove it"),
        ({"drain_s": float("nan")}, "drain_s=nan must be a finite number"),
        ({"max_num_seqs": 16}, "max_rows=32 must be at most max_num_seqs=16"),
        ({"engine_args": {"max_num_seqs": 31}}, "max_rows=32 must be at most max_num_seqs=31"),
        ({"thresholt": 0.1}, "the nearest is 'threshold'"),
    ],
)
def test_build_app_rejects_invalid_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_app({"model": "m", **values})


def test_build_app_rejects_unknown_engine_argument(model: Path) -> None:
    with pytest.raises(UserError, match="Unknown engine argument: max_modle_len"):
        build_app({"model": str(model), "engine_args": {"max_modle_len": 9}})


def test_engine_args_overrides_defaults_and_keeps_tag_processor() -> None:
    config = ServeConfig(
        model="m",
        device="cpu",
        max_model_len=4096,
        engine_args={"dtype": "float32", "logits_processors": ["a:B"], "additional_config": {"x": 1}},
    )
    args = engine_args(config, tag_id=7, positions=512)
    assert args["max_model_len"] == 512
    assert (args["dtype"], args["enforce_eager"]) == ("float32", True)
    assert args["enable_chunked_prefill"] is False, "with it, a client's seed ends the engine"
    assert args["logits_processors"] == ["a:B", "safety_ray.decode.vllm_processor:TagProcessor"]
    assert args["additional_config"]["x"] == 1
    assert args["additional_config"]["safety"]["tag_id"] == 7
    assert "enforce_eager" not in engine_args(ServeConfig(model="m", device="gpu"), 7, 512)


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_engine_args_selects_fast_dtype_on_cpu(
    native: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "fast_bf16", lambda device: native)
    assert engine_args(ServeConfig(model="m", device="cpu"), 7, 512)["dtype"] == dtype
    assert "dtype" not in engine_args(ServeConfig(model="m", device="gpu"), 7, 512), (
        "vLLM chooses the dtype on GPUs"
    )


def test_serve_app_reason_summarizes_ray_serve_error() -> None:
    message = """The deployment failed to start 1 times in a row. Error:
  File "llm_server.py", line 211, in __init__
RuntimeError: the engine did not start: Cannot find any model weights with `m`
"""
    assert app._reason(message) == "Cannot find any model weights with `m`"
    assert app._reason("one\n two \n") == "two"


def test_last_error_extracts_root_cause_from_engine_log() -> None:
    from serve.failures import last_error

    log = """(Worker pid=1) ERROR [multiproc_executor.py:944]     raise RuntimeError(
(Worker pid=1) ERROR [multiproc_executor.py:944] RuntimeError: Cannot find any model weights with `m`
(EngineCore pid=1) ERROR [core.py:1] Exception: WorkerProc failed. See stack trace for root cause.
"""
    assert last_error(log) == "RuntimeError: Cannot find any model weights with `m`"
    assert last_error("all is well") is None


def test_serve_build_offers_only_off_mode_without_tag(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(split_special_tokens=False, special=(END_OF_TEXT, CHAT_START, CHAT_END))
    folder = write_model(tmp_path, tokenizer, log_table(tokenizer, tag="q"))
    config = ServeConfig(model=str(folder), mode="off", device="cpu")
    assert check_model(config) == (str(folder), None)
    assert "logits_processors" not in engine_args(config, None, 512)
    assert public_settings(config, str(folder), None)["modes"] == ["off"]
    with pytest.raises(UserError, match="no harmfulness tag, which safety mode safebeam needs"):
        parse_options({"mode": "safebeam"}, config.default_options(), config.limits(has_tag=False))


def test_public_settings_report_modes_and_limits(model: Path) -> None:
    settings = public_settings(ServeConfig(model=str(model), allow_off=False, max_rows=20), str(model), 40)
    assert settings["modes"] == list(settings["decoding"]) == ["mask", "stop", "safebeam", "sample"]
    assert (settings["max_rows"], settings["max_tokens"]) == (20, POSITIONS)
    shorter = ServeConfig(model=str(model), engine_args={"max_model_len": POSITIONS // 2})
    assert public_settings(shorter, str(model), 40)["max_tokens"] == POSITIONS // 2
    assert (settings["needs_key"], settings["chat"]) == (False, True)


def test_deployment_config_sets_autoscaling_from_settings() -> None:
    config = ServeConfig(model="m", max_replicas=4, max_num_seqs=32, autoscaling={"upscale_delay_s": 3})
    scaling = deployment_config(config)["autoscaling_config"]
    assert scaling == {
        "min_replicas": 1,
        "max_replicas": 4,
        "policy": {"policy_function": "serve.autoscaling:replicas_for_rows"},
        "target_ongoing_requests": 16,
        "upscale_delay_s": 3,
    }


def test_deployment_config_follows_rows_of_engine() -> None:
    def rows(**settings: Any) -> tuple[int, Any]:
        config = ServeConfig(model="m", max_queued_requests=100, **settings)
        return deployment_config(config)["max_ongoing_requests"], engine_args(config, 7, 9).get(
            "max_num_seqs"
        )

    assert rows(device="cpu") == (164, 64)
    assert rows(device="cpu", engine_args={"max_num_seqs": 40}) == (140, 40)
    assert rows(device="gpu") == (1124, None), "vLLM chooses the rows on GPUs"
    assert rows(device="gpu", max_num_seqs=48) == (148, 48)


def test_build_app_applies_drain_timeout_to_all_deployments(model: Path) -> None:
    ingress = build_app({"model": str(model), "drain_s": 77})._bound_deployment
    [engine] = ingress.init_kwargs["llm_deployments"].values()
    for deployment in (ingress, engine._bound_deployment):
        assert deployment._deployment_config.graceful_shutdown_timeout_s == 77


def test_build_app_lets_the_replica_end_long_answers(model: Path) -> None:
    """Ray Serve LLM's ingress, which may be a part of the replica, would end them after 600 s."""
    name = "RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT"
    assert name in inspect.getsource(constants)
    ingress = build_app({"model": str(model), "request_timeout_s": 900.0})._bound_deployment
    [engine] = ingress.init_kwargs["llm_deployments"].values()
    settings = engine._bound_deployment.init_kwargs["llm_config"].runtime_env
    for env in (ingress.ray_actor_options["runtime_env"], settings):
        assert float(env["env_vars"][name]) > 900


def test_build_app_without_proxy_has_one_deployment(model: Path) -> None:
    values = {"model": str(model), "http": "replica", "port": 8123, "max_concurrent": 3, "playground": False}
    server = build_app(from_dict(ServeConfig, values))._bound_deployment
    assert server._deployment_config.graceful_shutdown_timeout_s > server.init_kwargs["direct"].drain_s == 60
    with pytest.raises(UserError, match="http=replica is not for `serve deploy`"):
        build_app(values)
    direct = server.init_kwargs["direct"]
    assert (direct.host, direct.port, direct.rules.max_concurrent) == ("127.0.0.1", 8123, 3)
    assert (direct.playground, direct.public_settings["model"]) == (False, "safety-ray")
    llm = server.init_kwargs["llm_config"]
    assert not any(isinstance(value, Application) for value in server.init_kwargs.values())
    hook = llm.callback_config.callback_class(llm)
    asyncio.run(hook.run_callback("on_before_node_init"))
    assert not hook.ctx.run_init_node, "the model is a folder, so nothing is downloaded"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"max_replicas": 2}, False),
        ({"route_prefix": "/model"}, False),
        ({"device": "gpu"}, False),  # an autoscaling cluster would add a machine for it
        ({"device": "cpu", "engine_args": {"tensor_parallel_size": 2}}, True),  # Ray counts one CPU
        ({"http": "proxy"}, False),
        ({"http": "replica", "device": "gpu"}, True),
    ],
)
def test_replica_answers_http_only_where_it_can(
    ray_cluster: None, settings: dict[str, Any], expected: bool
) -> None:
    cluster.start()
    assert answers_in_replica(ServeConfig(model="m", **settings)) == expected


def test_check_listens_here_rejects_port_without_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_listens_here("127.0.0.1", port)
    with pytest.raises(UserError, match=rf"port {port} on 127\.0\.0\.1 has no server .*use http=proxy"):
        check_listens_here("127.0.0.1", port)


def test_build_app_rejects_untested_versions(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.TESTED, "vllm", ("0.28",))
    with pytest.raises(UserError, match=r"^vllm 0\.29\.\d+ is not supported: .* install vllm==0\.28\.\*\.$"):
        build_app({"model": str(model)})
