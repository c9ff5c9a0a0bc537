"""A vLLM renderer in which no text of a request becomes a special token (vLLM 0.29).

vLLM tokenizes prompts with the model's own tokenizer, which turns a text that spells a special token into
that token, and offers no setting against it. The only hook is the renderer registry, and the methods that
tokenize are private: `_apply_chat_template_async`, `_tokenize_prompt`, `_build_tokens_prompt`, `_executor`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.registry import RENDERER_REGISTRY
from vllm.utils.async_utils import make_async


class ChatTokenizer(Protocol):
    """Encodes a conversation so that only the chat template's own control tokens are special."""

    def encode(self, render: Callable[..., str], conversation: list[Any], **variables: Any) -> list[int]: ...


class PlainTextRenderer(HfRenderer):
    """vLLM's renderer for Hugging Face tokenizers; a subclass says how conversations are encoded."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        chat_tokenizer = self.chat_tokenizer(config, tokenizer)
        super().__init__(config, tokenizer)

        def encode_chat(
            model_config: Any, tokenizer: Any, conversation: list[Any], **variables: Any
        ) -> list[int]:
            variables.pop("tokenize", None)
            render = partial(safe_apply_chat_template, model_config, tokenizer, tokenize=False)
            return chat_tokenizer.encode(render, conversation, **variables)

        self._apply_chat_template_async = make_async(encode_chat, executor=self._executor)

    def chat_tokenizer(self, config: Any, tokenizer: Any) -> ChatTokenizer:
        """Return the encoder of conversations; `config` is the engine's VllmConfig."""
        raise NotImplementedError

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        # An argument of each call, since vLLM's copies of a tokenizer lose attributes that were set on it.
        encoding = self.get_tokenizer()(
            prompt["prompt"], split_special_tokens=True, **params.get_encode_kwargs()
        )
        return self._build_tokens_prompt(encoding["input_ids"], prompt)


def use_renderer(renderer: type[PlainTextRenderer]) -> None:
    """Make vLLM engines of this process use `renderer` for Hugging Face tokenizers."""
    RENDERER_REGISTRY.register("hf", renderer.__module__, renderer.__name__)
