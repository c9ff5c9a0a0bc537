"""Parts of vLLM's frontend (AsyncLLM, 0.29) that the endpoint's guard and searches use.

The OpenAI layer calls `AsyncLLM.generate` for every request and has no hook around it. The guard therefore
takes its place on the engine client, and needs the same helpers as the code that it replaces.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from vllm.utils.async_utils import merge_async_iterators
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

__all__ = ["fill_generation_defaults", "incremental_detokenizer", "merge_async_iterators", "replace_generate"]


def replace_generate(client: Any, generate: Callable[..., AsyncGenerator[Any, None]]) -> None:
    """Make every caller of `client.generate`, an AsyncLLM, call `generate` instead."""
    client.generate = generate


def fill_generation_defaults(client: Any, params: Any) -> None:
    """Add the model's end-of-text and stop tokens to the SamplingParams `params`, as AsyncLLM does."""
    params.update_from_generation_config(
        client.input_processor.generation_config_fields, client.renderer.get_eos_token_id()
    )


def incremental_detokenizer(tokenizer: Any, prompt_ids: list[int], params: Any) -> IncrementalDetokenizer:
    """Return vLLM's detokenizer for one answer to a prompt; it also finds stop strings.

    It reads four fields of an EngineCoreRequest, which can be constructed only by the engine.
    """
    request: Any = SimpleNamespace(
        request_id="", prompt_token_ids=prompt_ids, prompt_embeds=None, sampling_params=params
    )
    return IncrementalDetokenizer.from_new_request(tokenizer, request)
