"""What the endpoint is made of: the Ray Serve application that its settings describe."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_ray.core import tag as harm
from safety_ray.core.artifact import read_record
from safety_ray.core.config import from_dict
from safety_ray.core.device import cpu_dtype
from safety_ray.core.errors import UserError
from serve.settings import ServeConfig

if TYPE_CHECKING:
    from ray.serve.deployment import Application

_OFFERED = ("threshold", "prompt_threshold", "beam_size", "num_candidates", "drop_share", "stride")
_ROOT = str(Path(__file__).resolve().parent.parent)


def build_app(args: dict[str, Any] | ServeConfig) -> Application:
    """The Ray Serve application of a config, or of its values; `import_path: serve.app:build_app`.

    Raises UserError for a model that is not there, or lacks the tag where a mode needs it, and for
    engine arguments that do not exist. `host` and `port` belong to Ray Serve itself and are not
    looked at here.
    """
    config = args if isinstance(args, ServeConfig) else from_dict(ServeConfig, args, "the application's args")
    folder, tag_id = check_model(config)
    with _own_logging():  # imports the engine; only who builds an application waits for that
        from ray import serve
        from ray.serve.llm import LLMConfig, build_llm_deployment
        from ray.serve.llm.ingress import OpenAiIngress

        from serve.ingress import ingress_class, model_card
        from serve.server import SafetyServer

    try:
        llm = LLMConfig(
            model_loading_config={"model_id": config.model_id, "model_source": folder},
            engine_kwargs=engine_args(config, tag_id, _longest(folder)),
            runtime_env={"env_vars": _environment(config)},
            placement_group_config={"bundles": [{"CPU": 1}]} if _on_cpu(config) else None,
            deployment_config=deployment_config(config),
            server_cls=SafetyServer,
            log_engine_metrics=False,
            experimental_configs={"stream_batching_interval_ms": 0},  # the server sees to it itself
        )
        ingress = ingress_class(config.access(), config.playground)
        options = OpenAiIngress.get_deployment_options([llm])
        options["ray_actor_options"] = {"num_cpus": 0.1, "runtime_env": {"env_vars": _ONE_LOOP}}
        options["graceful_shutdown_timeout_s"] = config.drain_s  # Ray Serve's 20 s would cut longer answers
        return serve.deployment(ingress, **options).bind(
            llm_deployments={config.model_id: build_llm_deployment(llm)},
            model_cards={config.model_id: model_card(llm)},
            offered=offered(config, folder, tag_id),
            api_keys=config.api_keys,
        )
    except ValueError as error:
        raise UserError(f"the endpoint cannot be set up: {_line(error)}") from error


def deployment_config(config: ServeConfig) -> dict[str, Any]:
    """Ray Serve's options for the engines' deployment."""
    return {
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": max(config.max_num_seqs // 2, 1),
            **config.autoscaling,
        },
        "max_ongoing_requests": config.max_num_seqs,
        "max_queued_requests": config.max_queued_requests,
        "health_check_period_s": config.health_check_period_s,
        "graceful_shutdown_timeout_s": config.drain_s,
        # The engine's own bundle is all a replica takes: two cores hold a whole endpoint.
        "ray_actor_options": {"num_cpus": 0},
        "max_constructor_retry_count": config.start_tries,
    }


def offered(config: ServeConfig, folder: str, tag_id: int | None) -> dict[str, Any]:
    """What clients may know: answered at GET /v1/safety."""
    limits, described = config.limits(tag_id is not None), Path(folder) / "tokenizer_config.json"
    template = described.is_file() and "chat_template" in json.loads(described.read_text())
    return {
        "model": config.model_id,
        "mode": config.mode,
        "modes": [mode for mode in limits.modes if mode != "off" or limits.allow_off],
        "allow_off": limits.allow_off,
        **{
            name: getattr(config, name)
            for name in (
                "threshold",
                "prompt_threshold",
                "beam_size",
                "num_candidates",
                "drop_share",
                "stride",
            )
        },
        "max_rows": config.max_rows,
        "max_tokens": min(config.max_model_len, _longest(folder)),
        "needs_key": bool(config.api_keys),
        "chat": template or (Path(folder) / "chat_template.jinja").is_file(),
    }


def engine_args(config: ServeConfig, tag_id: int | None, longest: int) -> dict[str, Any]:
    """vLLM's engine arguments; `config.engine_args` stands above all but the guard's own."""
    from safety_ray.decode.vllm_processor import CONFIG_KEY, PROCESSOR, engine_config
    from safety_ray.compat.vllm_scheduler import SCHEDULER

    limits = config.limits(tag_id is not None)
    args: dict[str, Any] = {
        "max_model_len": min(config.max_model_len, longest),
        "max_num_seqs": config.max_num_seqs,
        "max_logprobs": 21,  # OpenAI's 20, and the tag
        "scheduler_cls": SCHEDULER,
    }
    if _on_cpu(config):
        args |= {
            "dtype": cpu_dtype(),
            "enforce_eager": True,
            "distributed_executor_backend": "mp",
            "block_size": 32,  # what the candidates of a search share is cached in whole blocks
        }
    args |= config.engine_args
    guard: dict[str, Any] = {
        "tag": config.tag,
        "asked": asdict(config.asked()),
        "limits": asdict(limits) | {"max_candidates": args["max_logprobs"] - 2},
        "refusal": config.refusal,
        "report": config.report,
        "timeout_s": config.request_timeout_s,
        "stream_interval_ms": config.stream_interval_ms,
    }
    if tag_id is None:
        guard = {CONFIG_KEY: {"tag_id": None, **guard}}
    else:
        args["logits_processors"] = [*args.get("logits_processors", []), PROCESSOR]
        guard = engine_config(tag_id, **guard)
    args["additional_config"] = {**args.get("additional_config", {}), **guard}
    return args


def model_folder(path: str) -> str:
    """The Hugging Face folder that `path` names; UserError where there is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"the model folder '{path}' does not exist.")
    if read_record(path) is not None:
        folder = folder / "model"
    described = folder / "config.json"
    if not described.is_file():
        raise UserError(f"'{folder}' holds no model: a Hugging Face folder has a config.json.")
    if "model_type" not in json.loads(described.read_text()):
        raise UserError(f"'{folder}' holds no model: its config.json names no model_type.")
    return str(folder.resolve())


def check_model(config: ServeConfig) -> tuple[str, int | None]:
    """The model's folder and the id of its tag, None where it has none and mode off needs none.

    UserError where there is no model, or none that can be guarded.
    """
    folder = model_folder(config.model)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the model '{config.model}' has no tokenizer that can be read: {_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"the model '{config.model}' has a slow tokenizer; only fast ones can be guarded.")
    if config.mode == "off" and config.tag not in tokenizer.get_vocab():
        return folder, None
    found = harm.tag_id(tokenizer, config.tag, f"the model '{config.model}'")
    if not tokenizer.added_tokens_decoder[found].special:
        raise UserError(
            f"'{config.tag}' is no special token of the model '{config.model}': texts could forge it."
        )
    return folder, found


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep the root logger as it is: importing Ray Serve LLM makes it print JSON."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _longest(folder: str) -> int:
    settings = json.loads((Path(folder) / "config.json").read_text())
    return int(settings.get("max_position_embeddings") or sys.maxsize)


def _on_cpu(config: ServeConfig) -> bool:
    if config.device != "auto":
        return config.device == "cpu"
    import ray

    return not (ray.is_initialized() and ray.cluster_resources().get("GPU", 0))


_ONE_LOOP = {  # Ray Serve's own loops cost each message two changes of thread, and ours never block
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def _environment(config: ServeConfig) -> dict[str, str]:
    """What the engine's processes need: no hub, this package's path, memory for the cache."""
    path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
    values = {
        **_ONE_LOOP,
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if _on_cpu(config):
        values["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gib)
        if config.engine_args.get("enforce_eager", True):
            values["TORCH_COMPILE_DISABLE"] = "1"  # else the first request waits 10 s for a compiler
    return values


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
