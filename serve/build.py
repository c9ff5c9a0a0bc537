"""Build the Ray Serve application that the settings describe."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_ray.compat.versions import UntestedVersion, check_versions
from safety_ray.core import cluster
from safety_ray.core.config import from_dict
from safety_ray.core.device import cpu_engine_args, uses_gpus
from safety_ray.core.errors import UserError
from safety_ray.core.tag import tag_in
from safety_ray.core.weights import DEFAULT_LOAD_FORMAT
from safety_ray.decode.modes import describe_modes
from serve.autoscaling import replicas_for_rows
from serve.model import check_model, has_chat_template, last_line, max_positions
from serve.settings import CPU_ROWS, ServeConfig

if TYPE_CHECKING:
    from ray.serve.deployment import Application

    from serve.server import SafetyServer

_ROOT = str(Path(__file__).resolve().parent.parent)
_END_S = 15  # for the end of an engine, after the answers of a replica that answers HTTP itself
_GPU_ROWS = (256, 1024)  # smallest and largest maximum that vLLM chooses for a GPU


def build_app(
    args: dict[str, Any] | ServeConfig, server_class: type[SafetyServer] | None = None
) -> Application:
    """Return the Ray Serve application of a config or its values (`import_path: serve.app:build_app`).

    `server_class` replaces SafetyServer as the class of the replicas. Unless http=replica, `host` and `port`
    are settings of Ray Serve itself and are not used here. Raises UserError if the model does not exist or
    lacks the tag that a mode needs, for unknown engine arguments, and for untested versions of Ray or vLLM.
    """
    config = args if isinstance(args, ServeConfig) else from_dict(ServeConfig, args, "the application's args")
    if config.http == "replica" and config is not args:
        raise UserError("http=replica is not for `serve deploy`, which has a proxy: remove it, or use auto.")
    try:
        check_versions("ray", "vllm")
    except UntestedVersion as error:
        raise UserError(str(error)) from error
    folder, tag_id = check_model(config)
    config = replace(config, tag=tag_in(folder, config.tag))
    with _root_logger_unchanged():  # importing the engine takes seconds
        from ray import serve
        from ray.serve.llm import LLMConfig, build_llm_deployment
        from ray.serve.llm.ingress import OpenAiIngress

        from safety_ray.compat.ray_llm import LocalModel, model_card
        from serve.direct import DirectSettings
        from serve.ingress import ingress_class
        from serve.server import SafetyServer

    try:
        llm = LLMConfig(
            model_loading_config={"model_id": config.model_id, "model_source": folder},
            engine_kwargs=engine_args(config, tag_id, max_positions(folder)),
            runtime_env={"env_vars": _engine_environment(config)},
            placement_group_config={"bundles": [{"CPU": 1}]} if _on_cpu(config) else None,
            deployment_config=deployment_config(config),
            server_cls=server_class or SafetyServer,
            log_engine_metrics=False,
            callback_config={"callback_class": LocalModel},
            experimental_configs={"stream_batching_interval_ms": 0},  # streams.py batches events
        )
        public = public_settings(config, folder, tag_id)
        if config.http == "replica":
            access = config.access()
            direct = DirectSettings(
                config.host, config.port, config.drain_s, access, config.playground, public
            )
            return build_llm_deployment(llm, bind_kwargs={"direct": direct})
        ingress = ingress_class(config.access(), config.playground)
        options = OpenAiIngress.get_deployment_options([llm])
        options["ray_actor_options"] = {"num_cpus": 0.1, "runtime_env": {"env_vars": _environment(config)}}
        options["graceful_shutdown_timeout_s"] = config.drain_s  # Ray Serve's 20 s would end longer answers
        return serve.deployment(ingress, **options).bind(
            llm_deployments={config.model_id: build_llm_deployment(llm)},
            model_cards={config.model_id: model_card(llm)},
            public_settings=public,
            api_keys=config.api_keys,
        )
    except ValueError as error:
        raise UserError(f"the endpoint cannot be built: {last_line(error)}") from error


def deployment_config(config: ServeConfig) -> dict[str, Any]:
    """Return Ray Serve's options for the engines' deployment."""
    known = _num_seqs(config)
    return {
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "policy": {"policy_function": f"{replicas_for_rows.__module__}:{replicas_for_rows.__name__}"},
            "target_ongoing_requests": max((known or _GPU_ROWS[0]) // 2, 1),
            **config.autoscaling,
        },
        # Searches that wait in a replica (row_queue.py) leave room for requests that need not wait.
        "max_ongoing_requests": (known or _GPU_ROWS[1]) + config.max_queued_requests,
        "max_queued_requests": config.max_queued_requests,
        "health_check_period_s": config.health_check_period_s,
        "graceful_shutdown_timeout_s": config.drain_s + (_END_S if config.http == "replica" else 0),
        # A replica takes no CPU beyond the engine's bundle, so that an endpoint runs on two cores.
        "ray_actor_options": {"num_cpus": 0},
        "max_constructor_retry_count": config.start_tries,
    }


def public_settings(config: ServeConfig, folder: str, tag_id: int | None) -> dict[str, Any]:
    """Return what GET /v1/safety tells clients: the modes, their parameters and the limits."""
    limits = config.limits(tag_id is not None)
    modes = limits.allowed_modes()
    return {
        "model": config.model_id,
        "mode": config.mode,
        "modes": modes,
        "decoding": {name: mode for name, mode in describe_modes().items() if name in modes},
        "allow_off": limits.allow_off,
        **config.request_defaults(),
        "max_rows": config.max_rows,
        "max_tokens": min(config.model_len(), max_positions(folder)),
        "needs_key": bool(config.api_keys),
        "chat": has_chat_template(folder),
    }


def engine_args(config: ServeConfig, tag_id: int | None, positions: int) -> dict[str, Any]:
    """Return vLLM's engine arguments; `config.engine_args` takes precedence over all but the guard's own."""
    from safety_ray.decode.vllm_processor import CONFIG_KEY, PROCESSOR, engine_config
    from safety_ray.decode.vllm_scheduler import BLOCK_COPIES, SCHEDULER

    args: dict[str, Any] = {
        "max_model_len": min(config.max_model_len, positions),
        "max_logprobs": 21,  # OpenAI's 20, and the tag
        "scheduler_cls": SCHEDULER,
        "load_format": DEFAULT_LOAD_FORMAT,
    }
    if _on_cpu(config):
        # Each candidate of a search copies the last block of its parent.
        args |= {**cpu_engine_args(), "block_size": 32, "worker_extension_cls": BLOCK_COPIES}
    if num_seqs := _num_seqs(config):
        args["max_num_seqs"] = num_seqs
    args |= config.engine_args
    limits = asdict(config.limits(tag_id is not None)) | {"max_candidates": args["max_logprobs"] - 2}
    guard: dict[str, Any] = {
        "tag": config.tag,
        "default_options": asdict(config.default_options()),
        "limits": limits,
        "refusal": config.refusal,
        "report": config.report,
        "timeout_s": config.request_timeout_s,
        "stream_interval_ms": config.stream_interval_ms,
        "max_waiting": config.max_queued_requests,
    }
    if tag_id is None:
        guard = {CONFIG_KEY: {"tag_id": None, **guard}}
    else:
        args["logits_processors"] = [*args.get("logits_processors", []), PROCESSOR]
        guard = engine_config(tag_id, **guard)
    args["additional_config"] = {**args.get("additional_config", {}), **guard}
    return args


@contextmanager
def _root_logger_unchanged() -> Iterator[None]:
    """Restore the root logger, which importing Ray Serve LLM configures to print JSON."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def needed_resource(config: ServeConfig) -> tuple[str, int]:
    """Return what an engine needs of Ray's resources: CPUs or GPUs."""
    sizes = (config.engine_args.get(f"{kind}_parallel_size") or 1 for kind in ("tensor", "pipeline"))
    return ("CPU", 1) if _on_cpu(config) else ("GPU", math.prod(map(int, sizes)))


def _on_cpu(config: ServeConfig) -> bool:
    return not uses_gpus(config.device, cluster.resources().get("GPU", 0))


def _num_seqs(config: ServeConfig) -> int:
    """Return the maximum rows of the engine's batch, or 0 if vLLM chooses it."""
    return config.num_seqs() or (CPU_ROWS if _on_cpu(config) else 0)


def _environment(config: ServeConfig) -> dict[str, str]:
    """Return the environment of ingress and replicas."""
    return {
        # Ray Serve's separate loops cost each message two thread switches, and our code never blocks.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        # The ingress must not end an answer before the replica does; its default is 600 s.
        "RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT": str(config.request_timeout_s + 60),
        "VLLM_MAX_STOP_STRINGS": "64",  # vLLM's default is OpenAI's 4, and evaluation harnesses send more
    }


def _engine_environment(config: ServeConfig) -> dict[str, str]:
    """Return the environment of the engine's processes: no hub, this package's path, cache memory."""
    path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
    values = {
        **_environment(config),
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if _on_cpu(config):
        values["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gib)
        if config.engine_args.get("enforce_eager", True):
            values["TORCH_COMPILE_DISABLE"] = "1"  # compilation would delay the first request by 10 s
    return values
