"""A vLLM renderer in which no text of a request becomes a control token (vLLM 0.29).

vLLM tokenizes prompts with the model's own tokenizer, which turns a text that spells a control token into
that token, and offers no setting against it. The only hook is the renderer registry, and the methods that
tokenize are private: `_apply_chat_template_async`, `_tokenize_prompt`, `_build_tokens_prompt`, `_executor`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.registry import RENDERER_REGISTRY
from vllm.utils.async_utils import make_async


class ChatTokenizer(Protocol):
    """Encodes conversations and texts so that only the chat template spells control tokens."""

    def encode(self, render: Callable[..., str], conversation: list[Any], **variables: Any) -> list[int]: ...

    def encode_text(
        self, text: str, *, add_special_tokens: bool, truncation: bool = False, max_length: int | None = None
    ) -> list[int]: ...


class PlainTextRenderer(HfRenderer):
    """vLLM's renderer for Hugging Face tokenizers; a subclass says how conversations are encoded."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self._chat_tokenizer = chat_tokenizer = self.chat_tokenizer(config, tokenizer)
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

    def render_messages(self, messages: Any, params: Any) -> Any:
        _check_params(params)
        return super().render_messages(messages, params)

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        _check_params(params)
        return await super().render_messages_async(messages, params)

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        ids = self._chat_tokenizer.encode_text(prompt["prompt"], **params.get_encode_kwargs())
        return self._build_tokens_prompt(ids, prompt)


def _check_params(params: Any) -> None:
    """Raise VLLMValidationError for a field of a chat with which vLLM calls the model's own tokenizer."""
    if params.return_assistant_tokens_mask:
        raise VLLMValidationError("return_assistant_tokens_mask is not supported; leave it out.")


def use_renderer(renderer: type[PlainTextRenderer]) -> None:
    """Make vLLM engines of this process use `renderer` for Hugging Face tokenizers."""
    RENDERER_REGISTRY.register("hf", renderer.__module__, renderer.__name__)
