"""P(tag) at each position of a prompt needs an engine that can score it; see tests/slow/newer_vllm.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from safety_ray.core.errors import UserError


def test_prompt_p_tags_names_version_and_runner_that_it_needs() -> None:
    from safety_ray.decode.vllm_prompt_tags import prompt_p_tags

    config = SimpleNamespace(use_v2_model_runner=False)
    llm: Any = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config))
    with pytest.raises(UserError, match=r"needs vLLM 0\.32 with model runner V2 .*, not vLLM .* runner V1"):
        prompt_p_tags(llm, [[1, 2]], 0)
