"""The worker extension of engines on a CPU that run searches (vLLM 0.29 and 0.32).

    LLM(..., worker_extension_cls="safety_ray.compat.vllm_cpu_worker.CPUWorker")   # on CPUs only

vLLM imports a worker extension in each worker process, after the module of the worker and before the worker
is made. There are no settings for the functions that this module replaces when it is imported: where model
runner V1 has imported them already, and where V2 will import them from later.
"""

from __future__ import annotations

import sys
from typing import Any

from vllm.v1.worker import gpu_model_runner, utils

from safety_ray.compat.versions import ENGINE_TESTED, check_versions
from safety_ray.compat.vllm_block_copies import copy_blocks
from safety_ray.compat.vllm_forced_tokens import skip_sampling


class CPUWorker:
    """A worker extension without methods: vLLM imports its module in each worker."""


def _replace_block_copies() -> None:
    modules: list[Any] = [gpu_model_runner, utils, sys.modules.get("vllm.v1.worker.gpu.model_runner")]
    for module in modules:
        if module is not None:
            module.copy_kv_cache_blocks_inplace = copy_blocks


check_versions("vllm", tested=ENGINE_TESTED)
_replace_block_copies()
skip_sampling()
