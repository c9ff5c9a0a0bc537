"""The worker extension of engines on a CPU that run searches (vLLM 0.29).

    LLM(..., worker_extension_cls="safety_ray.compat.vllm_cpu_worker.CPUWorker")   # on CPUs only

vLLM imports a worker extension in each worker process, after the module of the worker and before the worker
is made. There are no settings for the functions that this module replaces when it is imported.
"""

from __future__ import annotations

from vllm.v1.worker import gpu_model_runner

from safety_ray.compat.versions import check_versions
from safety_ray.compat.vllm_block_copies import copy_blocks
from safety_ray.compat.vllm_forced_tokens import skip_sampling


class CPUWorker:
    """A worker extension without methods: vLLM imports its module in each worker."""


check_versions("vllm")
gpu_model_runner.copy_kv_cache_blocks_inplace = copy_blocks  # type: ignore[assignment]
skip_sampling()
