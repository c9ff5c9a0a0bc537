"""P(tag) after each token of a prompt, in one prefill of a vLLM engine.

It needs the V2 model runner of vLLM 0.32, whose requests may name the tokens to score at each position of a
prompt. Other engines report the most likely tokens only, of which the tag need not be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from vllm import SamplingParams
from vllm.inputs import TokensPrompt

from safety_ray.compat.vllm_runners import describe_runner
from safety_ray.core.errors import UserError
from safety_ray.decode.processor import MODE_ARG

if TYPE_CHECKING:
    from vllm import LLM


def prompt_p_tags(llm: LLM, prompts: Sequence[Sequence[int]], tag_id: int) -> list[np.ndarray[Any, Any]]:
    """Return, for each prompt of token ids, P(tag | its first i tokens) for i from 1 to its length.

    The prompts are computed without the prefix cache. Raises UserError if the engine cannot do this.
    """
    config = llm.llm_engine.vllm_config
    if not hasattr(SamplingParams(), "prompt_logprob_token_ids") or not config.use_v2_model_runner:
        raise UserError(
            "P(tag) at each position of a prompt needs vLLM 0.32 with model runner V2 "
            f"(VLLM_USE_V2_MODEL_RUNNER=1), not {describe_runner(config)}."
        )
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
        [_params(len(prompt), tag_id) for prompt in prompts],
        use_tqdm=False,
    )
    return [
        np.exp(_log_p_tags(output, len(prompt), tag_id))
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def _params(length: int, tag_id: int) -> SamplingParams:
    inner: dict[str, Any] = {"prompt_logprob_token_ids": [[tag_id]] * (length - 1)} if length > 1 else {}
    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprob_token_ids=[tag_id],  # after the whole prompt
        detokenize=False,
        extra_args={MODE_ARG: "off"},
        **inner,
    )


def _log_p_tags(output: Any, length: int, tag_id: int) -> np.ndarray[Any, Any]:
    inner = np.zeros((0, 1)) if length == 1 else output.prompt_token_id_logprobs
    if inner is None or len(inner) != length - 1:
        raise RuntimeError("the engine has not scored all positions of a prompt.")
    return np.append(inner[:, 0], output.outputs[0].logprobs[0][tag_id].logprob)
