"""Fields of a chat with which vLLM would tokenize it past the renderer that keeps text plain."""

from __future__ import annotations

import asyncio
import inspect

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams

from safety_ray.compat.vllm_renderer import PlainTextRenderer


def test_renderer_refuses_chats_that_vllm_tokenizes_itself() -> None:
    source = inspect.getsource(HfRenderer.render_messages_async)
    assert source.count("safe_apply_chat_template") == 1, "with return_assistant_tokens_mask only"
    renderer = PlainTextRenderer.__new__(PlainTextRenderer)
    params = ChatParams(return_assistant_tokens_mask=True)
    with pytest.raises(VLLMValidationError, match="return_assistant_tokens_mask is not supported"):
        asyncio.run(renderer.render_messages_async([], params))
    with pytest.raises(VLLMValidationError, match="return_assistant_tokens_mask is not supported"):
        renderer.render_messages([], params)
