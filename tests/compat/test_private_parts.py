"""Canaries: each private part that safety_ray.compat uses still exists and has the expected form.

A failure names the part and the module that needs it: adapt that module before using the new version.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

ATTRIBUTES = [
    ("ray_llm", "ray.llm._internal.common.callbacks.base", "CallbackBase.on_before_node_init"),
    ("ray_llm", "ray.llm._internal.serve.constants", "ENV_VARS_TO_PROPAGATE"),
    ("ray_llm", "ray.llm._internal.serve.core.configs.openai_api_models", "ErrorInfo"),
    ("ray_llm", "ray.llm._internal.serve.core.configs.openai_api_models", "ErrorResponse"),
    ("ray_llm", "ray.llm._internal.serve.core.configs.openai_api_models", "OpenAIHTTPException"),
    ("ray_llm", "ray.llm._internal.serve.core.configs.openai_api_models", "to_model_metadata"),
    ("ray_llm", "ray.llm._internal.serve.core.ingress.middleware", "SetRequestIdMiddleware"),
    ("ray_llm", "ray.llm._internal.serve.core.ingress.utils", "_sanitize_chat_completion_request"),
    ("ray_llm", "ray.llm._internal.serve.observability.metrics.fast_api_metrics", "metrics_lifespan"),
    ("ray_llm", "ray.serve.llm.ingress", "OpenAiIngress._get_model_id"),
    ("ray_llm", "ray.serve.llm.ingress", "OpenAiIngress._get_configured_serve_handle"),
    ("ray_llm", "ray.serve.llm.ingress", "OpenAiIngress._process_llm_request"),
    (
        "ray_parquet",
        "ray.data._internal.datasource.parquet_datasource",
        "ParquetDatasource.get_read_tasks",
    ),
    ("vllm_frontend", "vllm.utils.async_utils", "merge_async_iterators"),
    ("vllm_frontend", "vllm.v1.engine.async_llm", "AsyncLLM.generate"),
    ("vllm_frontend", "vllm.v1.engine.detokenizer", "IncrementalDetokenizer.from_new_request"),
    ("vllm_frontend", "vllm.v1.engine.detokenizer", "IncrementalDetokenizer.get_next_output_text"),
    ("vllm_frontend", "vllm.sampling_params", "SamplingParams.update_from_generation_config"),
    ("vllm_renderer", "vllm.renderers.hf", "HfRenderer._tokenize_prompt"),
    ("vllm_renderer", "vllm.renderers.hf", "HfRenderer._build_tokens_prompt"),
    ("vllm_renderer", "vllm.renderers.hf", "safe_apply_chat_template"),
    ("vllm_renderer", "vllm.renderers.registry", "RENDERER_REGISTRY.register"),
    ("vllm_renderer", "vllm.utils.async_utils", "make_async"),
    ("vllm_sampler", "vllm.v1.sample.sampler", "Sampler.forward"),
    ("vllm_forced_tokens", "vllm.v1.sample.sampler", "Sampler.compute_logprobs"),
    ("vllm_cpu_worker", "vllm.v1.worker.gpu_model_runner", "copy_kv_cache_blocks_inplace"),
    ("vllm_rows", "vllm.v1.request", "Request.update_block_hashes"),
    ("vllm_scheduler", "vllm.v1.core.block_pool", "BlockPool.free_blocks"),
    ("vllm_scheduler", "vllm.v1.core.sched.async_scheduler", "AsyncScheduler.get_num_unfinished_requests"),
]
SCHEDULER = ("vllm_scheduler", "vllm.v1.core.sched.scheduler", "Scheduler")
IN_SOURCE = [
    (
        "vllm_cpu_worker",
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner",
        "copy_kv_cache_blocks_inplace(",
    ),
    (
        "vllm_cpu_worker",
        "vllm.v1.worker.worker_base",
        "WorkerWrapperBase",
        "worker_extension_cls = resolve",
    ),
    (
        "vllm_forced_tokens",
        "vllm.v1.sample.logits_processor.builtin",
        "LogitBiasLogitsProcessor",
        "self.biases:",
    ),
    ("vllm_forced_tokens", "vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "self.sampler("),
    ("vllm_rows", "vllm.v1.request", "Request", "self._block_hasher"),
    ("vllm_scheduler", "vllm.v1.engine.core", "EngineCore", "if self.scheduler.has_requests():"),
    (
        "vllm_scheduler",
        "vllm.v1.engine.core",
        "EngineCoreProc",
        "if not model_executed and self.scheduler.has_requests():",
    ),
    (*SCHEDULER, "self._get_local_prefix_cache_hit(request)"),
    (*SCHEDULER, "self._free_request_blocks(request)"),
    (*SCHEDULER, "self._enqueue_waiting_request(request)"),
    (*SCHEDULER, "self.kv_cache_manager.allocate_slots("),
    (*SCHEDULER, "self.kv_cache_manager.pop_blocks_for_free(request)"),
    ("ray_llm", "ray.llm._internal.serve.engines.vllm.vllm_engine", "VLLMEngine", "self._engine_client ="),
    (
        "ray_llm",
        "ray.llm._internal.serve.engines.vllm.vllm_engine",
        "VLLMEngine",
        "if callback.ctx.run_init_node:",
    ),
    ("ray_llm", "ray.llm._internal.serve.engines.vllm.vllm_engine", "VLLMEngine", "self._app_state = state"),
    (
        "ray_llm",
        "ray.llm._internal.serve.engines.vllm.vllm_engine",
        "VLLMEngine",
        "self._oai_serving_tokenization",
    ),
    (
        "ray_llm",
        "vllm.entrypoints.generate.base.serving",
        "GenerateBaseServing",
        "self.engine_client = engine_client",
    ),
    (
        "vllm_frontend",
        "vllm.entrypoints.openai.completion.serving",
        "OpenAIServingCompletion",
        "self.engine_client.generate(",
    ),
    (
        "vllm_frontend",
        "vllm.entrypoints.openai.chat_completion.serving",
        "OpenAIServingChat",
        "self.engine_client.generate(",
    ),
    ("vllm_frontend", "vllm.v1.engine.async_llm", "AsyncLLM", "self.input_processor ="),
    ("vllm_frontend", "vllm.v1.engine.input_processor", "InputProcessor", "generation_config_fields"),
    ("vllm_renderer", "vllm.renderers.hf", "HfRenderer", "self._apply_chat_template_async("),
    ("vllm_renderer", "vllm.renderers.hf", "HfRenderer", "if params.return_assistant_tokens_mask:"),
    ("vllm_renderer", "vllm.renderers.base", "BaseRenderer", "self._executor ="),
    ("vllm_renderer", "vllm.renderers.base", "BaseRenderer", "self._tokenize_prompt"),
]
PARAMETERS = [
    (
        "vllm_frontend",
        "vllm.v1.engine.async_llm",
        "AsyncLLM.generate",
        ["prompt", "sampling_params", "request_id"],
    ),
    (
        "vllm_frontend",
        "vllm.v1.engine.detokenizer",
        "IncrementalDetokenizer.from_new_request",
        ["tokenizer", "request"],
    ),
    (
        "vllm_cpu_worker",
        "vllm.v1.worker.gpu_model_runner",
        "copy_kv_cache_blocks_inplace",
        ["kv_caches", "num_blocks", "kv_cache_block_copies"],
    ),
    *(
        ("vllm_scheduler", "vllm.v1.core.sched.async_scheduler", f"AsyncScheduler.{method}", names)
        for method, names in {
            "add_request": ["request"],
            "finish_requests": ["request_ids", "finished_status"],
            "schedule": ["throttle_prefills"],
            "update_from_output": ["scheduler_output", "model_runner_output"],
            "reset_prefix_cache": ["reset_running_requests", "reset_connector"],
            "_update_after_schedule": ["scheduler_output"],
            "_update_request_with_output": ["request", "new_token_ids", "is_stale"],
            "_enqueue_waiting_request": ["request"],
            "_get_local_prefix_cache_hit": ["request"],
            "_free_request_blocks": ["request"],
        }.items()
    ),
    ("vllm_sampler", "vllm.v1.sample.sampler", "Sampler.forward", ["logits"]),
    ("vllm_forced_tokens", "vllm.v1.sample.sampler", "Sampler.forward", ["logits", "sampling_metadata"]),
    (
        "ray_llm",
        "ray.serve.llm.ingress",
        "OpenAiIngress._process_llm_request",
        ["body", "call_method", "raw_request"],
    ),
]


def part(module: str, path: str, needed_by: str) -> Any:
    """Return `module.path`; fail with the module of safety_ray.compat that needs it."""
    message = f"{module}.{path} is gone, which safety_ray/compat/{needed_by}.py uses"
    try:
        value: Any = importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{message}: {error}")
    for name in path.split("."):
        if not hasattr(value, name):
            pytest.fail(message)
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("needed_by", "module", "path"), ATTRIBUTES)
def test_private_part_exists(needed_by: str, module: str, path: str) -> None:
    part(module, path, needed_by)


@pytest.mark.parametrize(("needed_by", "module", "path", "code"), IN_SOURCE)
def test_private_attribute_is_used_by_its_class(needed_by: str, module: str, path: str, code: str) -> None:
    """Instance attributes appear in the source of their class only."""
    source = inspect.getsource(part(module, path, needed_by))
    assert code in source, (
        f"{path} of {module} has no '{code}', on which safety_ray/compat/{needed_by}.py relies"
    )


@pytest.mark.parametrize(("needed_by", "module", "path", "names"), PARAMETERS)
def test_private_method_has_expected_parameters(
    needed_by: str, module: str, path: str, names: list[str]
) -> None:
    parameters = [
        name for name in inspect.signature(part(module, path, needed_by)).parameters if name != "self"
    ]
    assert parameters[: len(names)] == names, f"safety_ray/compat/{needed_by}.py relies on these parameters"


def test_engine_core_reads_queue_length_after_making_the_scheduler() -> None:
    source = inspect.getsource(part("vllm.v1.engine.core", "EngineCore.__init__", "vllm_scheduler"))
    scheduler, length = (
        "self.scheduler: SchedulerInterface = Scheduler(",
        "vllm_config.max_concurrent_batches",
    )
    assert 0 < source.find(scheduler) < source.find(length)


def test_ray_copies_hub_token_into_runtime_env_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from safety_ray.compat import ray_llm

    propagated = set(ray_llm.ENV_VARS_TO_PROPAGATE)
    config = part("ray.llm._internal.serve.engines.vllm.vllm_models", "VLLMEngineConfig", "ray_llm")
    environment = inspect.unwrap(config.get_runtime_env_with_local_env_vars)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    engine = config.model_construct(runtime_env=None, placement_group_config=None)
    try:
        assert environment(engine)["env_vars"] == {"HF_TOKEN": "hf_secret"}
        ray_llm.keep_hub_tokens_out_of_runtime_envs()
        assert environment(engine)["env_vars"] == {}
    finally:
        ray_llm.ENV_VARS_TO_PROPAGATE.update(propagated)


def test_canary_names_the_missing_part() -> None:
    message = r"Sampler\.gone is gone, which safety_ray/compat/vllm_sampler\.py uses"
    with pytest.raises(pytest.fail.Exception, match=message):
        part("vllm.v1.sample.sampler", "Sampler.gone", "vllm_sampler")
    with pytest.raises(pytest.fail.Exception, match=r"vllm\.nowhere\.x is gone"):
        part("vllm.nowhere", "x", "vllm_sampler")
