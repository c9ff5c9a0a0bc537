"""What the endpoint is made of: its settings, and the Ray Serve application they describe."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safety_ray import tag as harm
from safety_ray.artifact import read_record
from safety_ray.config import from_dict, setting
from safety_ray.decode.processor import Safety
from safety_ray.errors import UserError

if TYPE_CHECKING:
    from ray.serve.deployment import Application

_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve a model through an OpenAI-compatible endpoint."""

    model: str = setting("a Hugging Face folder, or the output of a finished pretrain or finetune job")
    model_id: str = setting("the model's name in requests", default="safety-ray")
    tag: str = setting("the harmfulness tag in the model's tokenizer", default=harm.TAG)
    mode: Literal["off", "mask", "stop"] = setting(
        "for requests that say nothing: off, mask (the tag is never sampled) or stop (the text ends at it)",
        default="mask",
    )
    threshold: float = setting(
        "mode stop: end the text when P(tag) reaches this; below the share of tags in training (0.05)",
        default=0.03,
    )
    allow_off: bool = setting("whether a request may choose mode off", default=True)
    refusal: str = setting("text put after an answer that mode stop ended", default="")
    report: bool = setting(
        "tell each answer's highest P(tag), where no log-probabilities are asked", default=True
    )
    host: str = setting("address to listen on; the endpoint has no passwords", default="127.0.0.1")
    port: int = setting("port to listen on", default=8000)
    route_prefix: str = setting("path before /v1", default="/")
    min_replicas: int = setting("engines at least", default=1)
    max_replicas: int = setting("engines at most, by load", default=1)
    device: Literal["auto", "cpu", "gpu"] = setting("auto: GPUs where the cluster has some", default="auto")
    max_model_len: int = setting(
        "tokens of a prompt and its answer at most; never more than the model takes", default=2048
    )
    max_num_seqs: int = setting("requests in a batch at most", default=64)
    kv_cache_gib: int = setting("device cpu: memory for the key-value cache", default=1)
    start_timeout_s: float = setting("seconds until a start counts as failed", default=600.0)
    start_tries: int = setting("times a replica is started until its failure counts", default=1)
    engine_args: dict[str, Any] = setting(
        "any vLLM engine argument; stands above the settings here", factory=dict
    )

    def __post_init__(self) -> None:
        Safety(self.mode, self.threshold)
        if self.mode == "off" and not self.allow_off:
            raise UserError("mode=off needs allow_off=true.")
        if not 1 <= self.port <= 65535:
            raise UserError(f"port must be 1 to 65535, not {self.port}.")
        if not self.route_prefix.startswith("/"):
            raise UserError(f"route_prefix must begin with '/', not '{self.route_prefix}'.")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserError("min_replicas must be at least 1 and max_replicas no less.")
        for name in ("max_model_len", "max_num_seqs", "kv_cache_gib", "start_timeout_s", "start_tries"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0.")


def build_app(args: dict[str, Any] | ServeConfig) -> Application:
    """The Ray Serve application of a config, or of its values; `import_path: serve.app:build_app`.

    Raises UserError for a model that is not there or lacks the tag, and for engine arguments that
    do not exist. `host` and `port` belong to Ray Serve itself and are not looked at here.
    """
    config = args if isinstance(args, ServeConfig) else from_dict(ServeConfig, args, "the application's args")
    folder, tag_id = check_model(config)
    with _own_logging():  # imports the engine; only who builds an application waits for that
        from ray.serve.llm import LLMConfig, build_openai_app

        from serve.server import SafetyIngress, SafetyServer

    try:
        llm = LLMConfig(
            model_loading_config={"model_id": config.model_id, "model_source": folder},
            engine_kwargs=engine_args(config, tag_id, _longest(folder)),
            runtime_env={"env_vars": _environment(config)},
            placement_group_config={"bundles": [{"CPU": 1}]} if _on_cpu(config) else None,
            deployment_config={
                "autoscaling_config": {
                    "min_replicas": config.min_replicas,
                    "max_replicas": config.max_replicas,
                    "target_ongoing_requests": config.max_num_seqs,
                },
                # The engine's own bundle is all a replica takes: two cores hold a whole endpoint.
                "ray_actor_options": {"num_cpus": 0},
                "max_constructor_retry_count": config.start_tries,
            },
            server_cls=SafetyServer,
            log_engine_metrics=False,
        )
        return build_openai_app(
            {
                "llm_configs": [llm],
                "ingress_cls_config": {"ingress_cls": SafetyIngress},
                "ingress_deployment_config": {"ray_actor_options": {"num_cpus": 0.1}},
            }
        )
    except ValueError as error:
        raise UserError(f"the endpoint cannot be set up: {_line(error)}") from error


def engine_args(config: ServeConfig, tag_id: int, longest: int) -> dict[str, Any]:
    """vLLM's engine arguments; `config.engine_args` stands above all but the guard's own."""
    from safety_ray.decode.vllm_processor import PROCESSOR, engine_config

    length = min(config.max_model_len, longest)
    args: dict[str, Any] = {"max_model_len": length, "max_num_seqs": config.max_num_seqs}
    if _on_cpu(config):
        args |= {"dtype": "bfloat16", "enforce_eager": True, "distributed_executor_backend": "mp"}
    args |= config.engine_args
    args["logits_processors"] = [*args.get("logits_processors", []), PROCESSOR]
    guard = engine_config(
        tag_id,
        Safety(config.mode, config.threshold),
        tag=config.tag,
        allow_off=config.allow_off,
        refusal=config.refusal,
        report=config.report,
    )
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


def check_model(config: ServeConfig) -> tuple[str, int]:
    """The model's folder and the id of its tag; UserError where there is none that can be guarded."""
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


def _environment(config: ServeConfig) -> dict[str, str]:
    """What the engine's processes need: no hub, this package's path, memory for the cache."""
    path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
    values = {
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
