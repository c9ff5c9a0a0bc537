"""Safe Beam Search on vLLM: one engine step makes one output token.

One request per candidate asks for one token. Its log-probabilities are the candidate's N best
continuations, and since it is allowed to sample the tag alone, and what is sampled is always
reported, they hold log P(tag) too. vLLM takes log-probabilities before it masks tokens, so they are
the model's own. What candidates share, the engine's prefix cache computes once: give it small
blocks (`block_size`), since only whole blocks are shared.

Many searches share an engine: their requests are batched like any others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.inputs.engine import tokens_input

from safety_ray.decode.safebeam import Expansion, Hypothesis, Search, SearchSettings
from safety_ray.compat.vllm_scheduler import GROUP_ARG

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

MODE_OFF = {"safety_mode": "off"}  # a processor that masks the tag would leave nothing to sample


def look_ahead(settings: SearchSettings, group: tuple[str, int] | None = None) -> SamplingParams:
    """What is asked of the engine about a prefix; `group` as of vllm_scheduler.py."""
    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprobs=settings.num_candidates + 1,  # the tag may be among the most likely
        allowed_token_ids=[settings.tag_id],
        detokenize=False,
        extra_args={**MODE_OFF, **({GROUP_ARG: list(group)} if group else {})},
    )


def expansion(output: RequestOutput, settings: SearchSettings) -> Expansion:
    """What the engine's answer says of a prefix; at equal probability the smaller token id comes first."""
    [step] = output.outputs[0].logprobs or [{}]
    tag = step[settings.tag_id].logprob
    pairs = sorted((-entry.logprob, token) for token, entry in step.items() if token != settings.tag_id)
    best = pairs[: settings.num_candidates]
    return Expansion([token for _, token in best], [-value for value, _ in best], min(math.exp(tag), 1.0))


def run_searches(
    llm: LLM, prompts: Sequence[Sequence[int]], searches: Sequence[Search]
) -> list[list[Hypothesis]]:
    """Drive the i-th search on the i-th prompt, all at once in one engine; prompts are token ids."""
    active = list(zip(prompts, searches, strict=True))
    step = 0
    while active := [(prompt, search) for prompt, search in active if search.pending]:
        asked = [(prompt, search, beam) for prompt, search in active for beam in search.pending]
        group = (f"step {step}", len(asked))
        answers = iter(
            llm.generate(
                [TokensPrompt(prompt_token_ids=[*prompt, *beam.token_ids]) for prompt, _, beam in asked],
                [params for _, search in active for params in _same(search, group)],
                use_tqdm=False,
            )
        )
        for _, search in active:
            search.advance([expansion(next(answers), search.settings) for _ in search.pending])
        step += 1
    return [search.hypotheses() for search in searches]


def _same(search: Search, group: tuple[str, int]) -> list[SamplingParams]:
    """One object for all candidates of a search: the engine makes its own copies."""
    return [look_ahead(search.settings, group)] * len(search.pending)


async def drive(
    generate: Callable[..., AsyncGenerator[RequestOutput, None]],
    prompt_ids: Sequence[int],
    search: Search,
    name: str,
    *,
    cache_salt: str | None = None,
    **more: Any,
) -> AsyncGenerator[Search, None]:
    """Drive `search` with an engine's `generate` (AsyncLLM.generate); gives it back after each step.

    `name` must be the search's own: its requests are called after it. Prefixes are shared with
    searches of the same `cache_salt` alone. `more` goes to `generate`. Whoever closes this generator
    ends the step's requests.
    """

    async def ask(token_ids: tuple[int, ...], params: SamplingParams, request_id: str) -> Expansion:
        prompt = tokens_input([*prompt_ids, *token_ids], cache_salt=cache_salt)
        outputs = generate(prompt, params, request_id, **more)
        async with aclosing(outputs) as answers:
            async for answer in answers:
                return expansion(answer, search.settings)
        raise RuntimeError("the engine ended a request without an answer")

    step = 0
    while search.pending:
        group = f"{name}-{step}"
        params = look_ahead(search.settings, (group, len(search.pending)))
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(ask(beam.token_ids, params, f"{group}-{place}"))
                    for place, beam in enumerate(search.pending)
                ]
        except BaseExceptionGroup as failed:  # of one step; the first says why
            raise failed.exceptions[0] from failed
        search.advance([task.result() for task in asked])
        step += 1
        yield search
