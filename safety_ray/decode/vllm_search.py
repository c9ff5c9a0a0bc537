"""Safe Beam Search on vLLM: one request runs a whole search in the engine core (vllm_scheduler.py).

Each prefix that a search expands is one row of the model. Its log-probabilities are the candidate's N best
continuations. A row always samples the tag, and vLLM always reports the sampled token, so they contain
log P(tag) too. vLLM computes log-probabilities before it adds biases, so they are the model's own.

The engine returns the log-probabilities of all rows as those of the request's "tokens". The search is
repeated here from these values, which gives the same beams, with everything that a caller may ask a `Search`.

In fp32 the results are those of the transformers backend. In bf16, vLLM's default for most models, rounding
changes the order of candidates that are almost equally likely (docs/serve.md).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from vllm import RequestOutput, SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind

from safety_ray.compat.vllm_forced_tokens import FORCED
from safety_ray.core.errors import UserError
from safety_ray.decode.processor import MODE_ARG
from safety_ray.decode.safebeam import Hypothesis, Search
from safety_ray.decode.vllm_scheduler import SEARCH_ARG, check_length, describe_search, expansion

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput
    from vllm.logprobs import FlatLogprobs

_MODE_OFF = {MODE_ARG: "off"}  # after a mask, a row would sample another token than the tag


def search_params(search: Search) -> SamplingParams:
    """Return the sampling parameters of the request that runs `search`, which has not started."""
    settings = search.settings
    if settings.tag_id is None:
        raise UserError("a search in vLLM needs tag_id, the id of the model's tag.")
    return SamplingParams(
        max_tokens=settings.max_new_tokens,
        temperature=0,
        logprobs=settings.num_candidates + 1,  # the tag may be one of the most likely tokens
        flat_logprobs=True,
        logit_bias={settings.tag_id: FORCED},
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={**_MODE_OFF, SEARCH_ARG: describe_search(search)},
    )


class Replay:
    """A search that is repeated from the outputs of the engine core."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._rows: list[tuple[list[int], list[float]]] = []  # outputs of a part of a step

    def add(self, output: CompletionOutput) -> None:
        """Accept the rows in `output`. Raises UserError if the engine has refused the search."""
        if output.finish_reason == "error":
            raise UserError(str(output.stop_reason))
        if output.finish_reason not in (None, "stop"):
            raise RuntimeError(f"the engine ended the search: {output.finish_reason}")
        table: FlatLogprobs = output.logprobs  # type: ignore[assignment]
        self._rows += [
            (table.token_ids[start:end], table.logprobs[start:end])
            for start, end in zip(table.start_indices, table.end_indices, strict=True)
        ]

    def advance(self) -> bool:
        """Advance the search by one step; return False if the rows of the step are not complete."""
        number = len(self.search.pending)
        if not number or len(self._rows) < number:
            return False
        rows, self._rows = self._rows[:number], self._rows[number:]
        self.search.advance([expansion(*row, self.search.settings) for row in rows])
        return True


def run_searches(
    llm: LLM, prompts: Sequence[Sequence[int]], searches: Sequence[Search]
) -> list[list[Hypothesis]]:
    """Run the i-th search on the i-th prompt, all in one engine, and return their results.

    Raises UserError before any search runs if a prompt and its longest answer do not fit the engine.
    """
    for index, (prompt, search) in enumerate(zip(prompts, searches, strict=True)):
        where = "the prompt" if len(prompts) == 1 else f"prompt {index}"
        check_length(search.settings, len(prompt), llm.model_config.max_model_len, where)
    engine = llm.llm_engine
    replays = {f"search-{uuid.uuid4().hex}": Replay(search) for search in searches}
    ids: list[str] = []
    try:
        for (name, replay), prompt in zip(replays.items(), prompts, strict=True):
            ids.append(engine.add_request(name, tokens_input(list(prompt)), search_params(replay.search)))
        while engine.has_unfinished_requests():
            for output in engine.step():  # searches are repeated while the engine computes their next steps
                assert isinstance(output, RequestOutput)
                replay = replays[output.request_id]
                replay.add(output.outputs[0])
                while replay.advance():
                    pass
    except BaseException:
        engine.abort_request(ids, internal=True)
        raise
    return [search.hypotheses() for search in searches]


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

    `name` is the id of the request, unique among running ones. Cached prefixes are shared only with requests
    of the same `cache_salt`. Closing this generator ends the search in the engine.
    """
    replay = Replay(search)
    prompt = tokens_input(list(prompt_ids), cache_salt=cache_salt)
    async with aclosing(generate(prompt, search_params(search), name, **generate_kwargs)) as outputs:
        async for output in outputs:
            replay.add(output.outputs[0])
            while replay.advance():
                yield search
    if search.pending:
        raise RuntimeError("the engine ended a search before its end")
