"""Safe Beam Search on vLLM: one engine step generates one output token.

Each candidate is one request for one token. Its log-probabilities are the candidate's N best continuations.
The request may sample only the tag, and vLLM always reports the sampled token, so they contain log P(tag)
too. vLLM computes log-probabilities before it masks tokens, so they are the model's own. The engine's prefix
cache avoids computing shared prefixes again; it shares whole blocks only, so use a small `block_size`.

Many searches can share an engine: their requests are batched like any others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt, tokens_input

from safety_ray.compat.vllm_scheduler import GROUP_ARG
from safety_ray.decode.processor import MODE_ARG
from safety_ray.decode.safebeam import Expansion, Hypothesis, Search, SearchSettings

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

_MODE_OFF = {MODE_ARG: "off"}  # a processor that masks the tag would leave no token to sample


def look_ahead(settings: SearchSettings, group: tuple[str, int] | None = None) -> SamplingParams:
    """Return the sampling parameters of a request for one expansion.

    `group` is (name, number of requests) of the search step (safety_ray/compat/vllm_scheduler.py).
    """
    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprobs=settings.num_candidates + 1,  # the tag may be one of the most likely tokens
        allowed_token_ids=[settings.tag_id],
        detokenize=False,
        extra_args={**_MODE_OFF, **({GROUP_ARG: list(group)} if group else {})},
    )


def expansion(output: RequestOutput, settings: SearchSettings) -> Expansion:
    """Return the expansion in the engine's output; at equal probability the smaller token id comes first."""
    [step] = output.outputs[0].logprobs or [{}]
    tag = step[settings.tag_id].logprob
    pairs = sorted((-entry.logprob, token) for token, entry in step.items() if token != settings.tag_id)
    best = pairs[: settings.num_candidates]
    return Expansion([token for _, token in best], [-value for value, _ in best], min(math.exp(tag), 1.0))


def run_searches(
    llm: LLM, prompts: Sequence[Sequence[int]], searches: Sequence[Search]
) -> list[list[Hypothesis]]:
    """Run the i-th search on the i-th prompt, all in one engine, and return their results."""
    active = list(zip(prompts, searches, strict=True))
    step = 0
    while active := [(prompt, search) for prompt, search in active if search.pending]:
        prefixes = [[*prompt, *beam.token_ids] for prompt, search in active for beam in search.pending]
        group = (f"step {step}", len(prefixes))
        outputs = iter(
            llm.generate(
                [TokensPrompt(prompt_token_ids=token_ids) for token_ids in prefixes],
                [params for _, search in active for params in _params_of_step(search, group)],
                use_tqdm=False,
            )
        )
        for _, search in active:
            search.advance([expansion(next(outputs), search.settings) for _ in search.pending])
        step += 1
    return [search.hypotheses() for search in searches]


def _params_of_step(search: Search, group: tuple[str, int]) -> list[SamplingParams]:
    """Return one entry per pending beam; all are the same object, since the engine copies it."""
    return [look_ahead(search.settings, group)] * len(search.pending)


async def drive(
    generate: Callable[..., AsyncGenerator[RequestOutput, None]],
    prompt_ids: Sequence[int],
    search: Search,
    name: str,
    *,
    cache_salt: str | None = None,
    **generate_kwargs: Any,
) -> AsyncGenerator[Search, None]:
    """Run `search` with an engine's `generate` (AsyncLLM.generate), and yield it after each step.

    `name` must be unique among running searches: it becomes part of the request ids. Cached prefixes are
    shared only with searches of the same `cache_salt`. Closing this generator aborts the requests of the
    current step.
    """

    async def expand(token_ids: tuple[int, ...], params: SamplingParams, request_id: str) -> Expansion:
        prompt = tokens_input([*prompt_ids, *token_ids], cache_salt=cache_salt)
        async with aclosing(generate(prompt, params, request_id, **generate_kwargs)) as outputs:
            async for output in outputs:
                return expansion(output, search.settings)
        raise RuntimeError("the engine ended a request without an output")

    step = 0
    while search.pending:
        group = f"{name}-{step}"
        params = look_ahead(search.settings, (group, len(search.pending)))
        try:
            async with asyncio.TaskGroup() as tasks:
                expansions = [
                    tasks.create_task(expand(beam.token_ids, params, f"{group}-{index}"))
                    for index, beam in enumerate(search.pending)
                ]
        except BaseExceptionGroup as errors:  # all requests of a step fail for the same reason
            raise errors.exceptions[0] from errors
        search.advance([task.result() for task in expansions])
        step += 1
        yield search
